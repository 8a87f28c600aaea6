"""Directories and clocks as they should not be: each says so, nothing valid is lost, and training goes on where it can."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import PAWL, PAWLD, Ended, Place, Reference, undisturbed, wait_for
from faults import CLOCK, KILLED, TRAINER
from test_damaged import with_digest

LAST_STEP = 60
DAY_S = 86400
NOBODY = 65534


def tiny(place: Place, step_us: int = 1000) -> list[str]:
    files = ["--losses", str(place.path / "losses"), "--weights", str(place.path / "weights")]
    return place.alone([TRAINER, "--steps", str(LAST_STEP), "--step-us", str(step_us), *files])


def slow(place: Place) -> list[str]:
    """Long enough to do something to it: 1.5 s."""
    return tiny(place, 25_000)


@pytest.fixture(scope="module")
def tiny_reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    place = Place(tmp_path_factory.mktemp("tiny_reference"))
    return undisturbed(place, tiny(place), LAST_STEP)


@pytest.fixture
def mount(place: Place) -> Iterator[Callable[..., None]]:
    """Mounts something for the length of a test; the test is left out where that is not allowed."""
    mounted: list[str] = []

    def call(*words: str) -> None:
        done = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"nothing can be mounted here: {done.stderr}")
        if "remount" not in " ".join(words):
            mounted.append(words[-1])

    yield call
    place.kill_what_runs()  # of a test that failed: what runs there would keep it busy
    for path in reversed(mounted):
        subprocess.run(["umount", path], check=True)


def wait_for_output(place: Place, text: str, times: int = 1) -> None:
    wait_for(lambda: place.output().count(text) >= times, f"{text!r} in:\n{place.output()}", 20)


def told_durable(place: Place) -> list[int]:
    """The sequences that the daemon has reported; what a trainer says of a final checkpoint is another's word."""
    return [int(sequence) for sequence in re.findall(r"checkpoint (\d+) of step \d+ is durable", place.output())]


def wait_for_durable(place: Place) -> None:
    wait_for(lambda: told_durable(place), f"a durable checkpoint in:\n{place.output()}", 20)


def killed_in_third_commit(place: Place, options: list[str] | None = None) -> int:
    """A daemon that has died; the newest sequence that is durable. Its word for it may have died with it."""
    crashed = place.run(tiny(place), options, environment={"PAWL_CRASH_POINT": "commit: data written#3"})
    assert crashed.code == KILLED, crashed.output
    directory = Path(options[1]) if options else place.checkpoints
    committed = max(int(path.name.split("-")[0]) for path in directory.iterdir() if path.name[0].isdigit())
    assert committed == 2
    return committed


def assert_resumed(ended: Ended, place: Place, durable: int, reference: Reference) -> None:
    """From what was durable, and with the result of the run that was left alone."""
    assert ended.code == 0, ended.output
    assert f"resumes from checkpoint {durable} " in ended.output
    place.assert_equal_to(reference)


# ---- the checkpoint directory ----


def test_a_directory_that_is_moved_away_costs_checkpoints_until_it_is_back(
    place: Place, tiny_reference: Reference
) -> None:
    elsewhere = place.state / "elsewhere"
    daemon = place.start(slow(place))
    wait_for_durable(place)
    place.checkpoints.rename(elsewhere)

    wait_for_output(place, "no checkpoint was made")
    before = told_durable(place)[-1]
    assert f"list directory '{place.checkpoints}': No such file or directory. Training goes on" in place.output()
    assert [path for path in elsewhere.iterdir() if path.name.startswith(f"{before:06}-step-")]
    elsewhere.rename(place.checkpoints)
    ended = place.end(daemon)

    assert ended.code == 0, ended.output
    assert told_durable(place)[-1] > before
    assert place.pawl("checkpoints", "verify").code == 0
    place.assert_equal_to(tiny_reference)
    place.assert_ended_with_the_file_of(tiny_reference)


def test_a_directory_that_is_removed_is_not_made_anew_and_a_new_one_is_used(
    place: Place, tiny_reference: Reference
) -> None:
    # A volume that is no longer mounted looks the same: what is written below it would be lost.
    daemon = place.start(slow(place))
    wait_for_durable(place)
    gone = place.state / "gone"
    place.checkpoints.rename(gone)
    shutil.rmtree(gone)

    wait_for_output(place, "no checkpoint was made")
    before = told_durable(place)[-1]
    assert not place.checkpoints.exists()
    place.checkpoints.mkdir()
    ended = place.end(daemon)

    assert ended.code == 0, ended.output
    assert told_durable(place)[-1] > before, "sequences are never reused"
    place.assert_equal_to(tiny_reference)
    place.assert_ended_with_the_file_of(tiny_reference)


def test_an_empty_directory_that_held_checkpoints_is_no_place_to_begin_again(
    place: Place, tiny_reference: Reference
) -> None:
    """What a volume that is not mounted looks like."""
    durable = killed_in_third_commit(place)
    elsewhere = place.state / "elsewhere"
    place.checkpoints.rename(elsewhere)
    place.checkpoints.mkdir()

    for _ in range(2):  # what was refused once is not believed the next time
        refused = place.run(tiny(place))
        assert refused.code == 65, refused.output
        assert (
            f"checkpoint directory '{place.checkpoints}' is empty, and the journal knows {durable} checkpoints in it, "
            f"the newest {durable} of step 20. Not begun again at step 0: bring them back (is its volume mounted?), or set"
        ) in refused.output
        assert place.committed() == []
    shutil.rmtree(place.checkpoints)
    elsewhere.rename(place.checkpoints)
    ended = place.run(tiny(place))

    assert_resumed(ended, place, durable, tiny_reference)


def test_an_empty_directory_is_begun_in_where_that_is_said_or_where_it_is_another(
    place: Place, tiny_reference: Reference
) -> None:
    durable = killed_in_third_commit(place)
    (place.path / "losses").unlink()
    another = place.run(tiny(place), ["--checkpoint-dir", str(place.path / "another")])
    assert another.code == 0, another.output
    assert "resumes" not in another.output
    place.assert_equal_to(tiny_reference)

    shutil.rmtree(place.checkpoints)
    (place.path / "losses").unlink()
    ended = place.run(tiny(place), ["--start-fresh"])
    assert ended.code == 0, ended.output
    assert "beginning again at step 0 as configured" in ended.output
    assert told_durable(place)[-1] > durable, "sequences are never reused"
    place.assert_equal_to(tiny_reference)
    again = place.run(tiny(place))
    assert again.code == 0, again.output
    assert "resumes from checkpoint" in again.output


def test_a_read_only_directory_is_refused_before_anything_is_started(
    place: Place, tiny_reference: Reference, mount: Callable[..., None]
) -> None:
    durable = killed_in_third_commit(place)
    mount("--bind", str(place.checkpoints), str(place.checkpoints))
    mount("-o", "remount,bind,ro", str(place.checkpoints))
    before = sorted(path.name for path in place.checkpoints.iterdir())

    refused = place.run(tiny(place))

    assert refused.code == 74, refused.output
    assert "Read-only file system" in refused.output
    assert str(place.checkpoints) in refused.output
    assert sorted(path.name for path in place.checkpoints.iterdir()) == before
    mount("-o", "remount,bind,rw", str(place.checkpoints))
    ended = place.run(tiny(place))
    assert_resumed(ended, place, durable, tiny_reference)


@pytest.fixture
def nobody(tmp_path: Path) -> Iterator[list[str]]:
    """What to write before a command so that another user runs it, who may enter the place and write there."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    entered = [tmp_path, *tmp_path.parents]
    closed = [folder for folder in entered if not folder.stat().st_mode & 0o001]
    for folder in closed:
        folder.chmod(folder.stat().st_mode | 0o011)
    os.chown(tmp_path, NOBODY, NOBODY)
    yield ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    for folder in closed:
        folder.chmod(folder.stat().st_mode & ~0o011)


def test_a_directory_that_belongs_to_another_user_is_refused_before_anything_is_started(
    place: Place, tiny_reference: Reference, nobody: list[str]
) -> None:
    durable = killed_in_third_commit(place)
    for path in [place.state, *place.state.rglob("*")]:
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    for path in place.path.iterdir():
        os.chown(path, NOBODY, NOBODY)
    os.chown(place.checkpoints, 0, 0)
    place.checkpoints.chmod(0o755)
    before = sorted(path.name for path in place.checkpoints.iterdir())
    command = [*nobody, PAWL, "run", "--every-steps", "10", "--", *tiny(place)]

    refused = place.run(program=command)

    assert refused.code in (74, 77), refused.output
    assert "Permission denied" in refused.output
    assert str(place.checkpoints) in refused.output
    assert sorted(path.name for path in place.checkpoints.iterdir()) == before
    os.chown(place.checkpoints, NOBODY, NOBODY)
    ended = place.run(program=command)
    assert_resumed(ended, place, durable, tiny_reference)


def test_a_directory_whose_permission_is_taken_away_costs_checkpoints_until_it_is_given_back(
    place: Place, tiny_reference: Reference, nobody: list[str]
) -> None:
    daemon = place.start(program=[*nobody, PAWL, "run", "--every-steps", "10", "--", *slow(place)])
    wait_for_durable(place)
    place.checkpoints.chmod(0o555)

    wait_for_output(place, "no checkpoint was made")
    before = told_durable(place)[-1]
    assert "Permission denied" in place.output()
    place.checkpoints.chmod(0o755)
    ended = place.end(daemon)

    assert ended.code == 0, ended.output
    assert told_durable(place)[-1] > before
    place.assert_equal_to(tiny_reference)
    place.assert_ended_with_the_file_of(tiny_reference)


def test_a_directory_that_becomes_read_only_costs_checkpoints_until_it_is_writable(
    place: Place, tiny_reference: Reference, mount: Callable[..., None]
) -> None:
    daemon = place.start(slow(place))
    wait_for_durable(place)
    # Laid over it: the lock, which the daemon has open below, would keep the mount itself writable.
    mount("--bind", str(place.checkpoints), str(place.checkpoints))
    mount("-o", "remount,bind,ro", str(place.checkpoints))

    wait_for_output(place, "no checkpoint was made")
    before = told_durable(place)[-1]
    assert "Read-only file system. Training goes on" in place.output()
    assert place.pawl("checkpoints", "verify").code == 0
    mount("-o", "remount,bind,rw", str(place.checkpoints))
    ended = place.end(daemon)

    assert ended.code == 0, ended.output
    assert told_durable(place)[-1] > before
    place.assert_equal_to(tiny_reference)
    place.assert_ended_with_the_file_of(tiny_reference)


def test_a_symlink_to_a_directory_is_followed_and_stays(place: Place, tiny_reference: Reference) -> None:
    real = place.path / "real"
    real.mkdir()
    link = place.path / "link"
    link.symlink_to("real")
    options = ["--checkpoint-dir", str(link)]
    durable = killed_in_third_commit(place, options)

    ended = place.run(tiny(place), options)

    assert_resumed(ended, place, durable, tiny_reference)
    assert link.readlink() == Path("real")
    assert (real / "latest" / "rank-00000.pt").read_bytes() == tiny_reference.file


def test_a_symlink_to_nothing_is_refused_and_nothing_is_made(place: Place) -> None:
    link = place.path / "link"
    link.symlink_to("not-mounted/checkpoints")

    refused = place.run(tiny(place), ["--checkpoint-dir", str(link)])

    assert refused.code == 66, refused.output
    assert f"'{link}' is a symlink to what is not there" in refused.output
    assert not (place.path / "not-mounted").exists()
    assert not (place.path / "losses").exists(), "nothing may be trained that can't be kept"


def test_a_file_in_the_place_of_a_directory_is_refused_and_left_as_it_is(place: Place) -> None:
    file = place.path / "file"
    file.write_text("precious")

    refused = place.run(tiny(place), ["--checkpoint-dir", str(file)])
    below = place.run(tiny(place), ["--checkpoint-dir", str(file / "checkpoints"), "--state-dir", "other"])

    for ended in (refused, below):
        assert ended.code == 64, ended.output
        assert f"'{file}' is no directory" in ended.output
    assert file.read_text() == "precious"
    assert not (place.path / "losses").exists()


def test_checkpoints_on_another_filesystem_than_the_journal_survive_a_kill(
    place: Place, tiny_reference: Reference, mount: Callable[..., None]
) -> None:
    disk = place.path / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "-o", "size=10m", "tmpfs", str(disk))
    options = ["--checkpoint-dir", str(disk / "checkpoints")]
    assert disk.stat().st_dev != place.path.stat().st_dev
    durable = killed_in_third_commit(place, options)

    ended = place.run(tiny(place), options)

    assert_resumed(ended, place, durable, tiny_reference)
    assert (disk / "checkpoints" / "latest" / "rank-00000.pt").read_bytes() == tiny_reference.file


def test_two_thousand_other_names_are_in_nobodys_way_and_stay(place: Place, tiny_reference: Reference) -> None:
    durable = killed_in_third_commit(place)
    # Names that look as if they were pawl's among them, and none is.
    strange = [f"{i:06}-step-{i}.old" for i in range(500)] + [f"{i}-step-{i}" for i in range(500)]
    strange += [f"notes-{i}.txt" for i in range(500)] + [f"{i:06}-step-{i}0" for i in range(1000, 1500)]
    for name in strange:
        (place.checkpoints / name).write_text(name)

    ended = place.run(tiny(place))

    assert_resumed(ended, place, durable, tiny_reference)
    for name in strange:
        assert (place.checkpoints / name).read_text() == name
    place.assert_ended_with_the_file_of(tiny_reference)


# ---- held by somebody else ----


def test_a_journal_that_another_process_holds_is_left_alone(place: Place, tiny_reference: Reference) -> None:
    durable = killed_in_third_commit(place)
    with (place.state / "journal" / "LOCK").open("r+") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

        refused = place.run(tiny(place))

    assert refused.code == 69, refused.output
    assert f"another pawld has the journal '{place.state}/journal' open" in refused.output
    assert not [path for path in place.state.iterdir() if "damaged" in path.name]
    ended = place.run(tiny(place))
    assert_resumed(ended, place, durable, tiny_reference)


def test_a_second_daemon_on_one_state_directory_takes_nothing_from_the_first(
    place: Place, tiny_reference: Reference
) -> None:
    first = place.start(slow(place))
    wait_for_durable(place)

    second = place.run(["true"])

    assert second.code == 69, second.output
    assert f"another pawl holds '{place.state}/lock'" in second.output
    assert place.json("status")["jobs"][0]["state"] == "running", "the first's sockets are its own"
    assert place.end(first).code == 0
    place.assert_equal_to(tiny_reference)


def test_a_second_daemon_on_one_checkpoint_directory_sweeps_nothing_of_the_first(
    place: Place, tiny_reference: Reference
) -> None:
    first = place.start(slow(place))
    wait_for_durable(place)
    unfinished = place.checkpoints / ".tmp-000900-step-1"
    unfinished.mkdir()

    second = place.run(["true"], ["--state-dir", "other", "--checkpoint-dir", str(place.checkpoints)])

    assert second.code == 69, second.output
    assert f"another pawl holds '{place.checkpoints}/.lock'" in second.output
    assert unfinished.exists()
    assert place.end(first).code == 0
    place.assert_equal_to(tiny_reference)


def configuration(place: Place, directories: dict[str, Path]) -> Path:
    path = place.path / "pawld.yaml"
    jobs = {
        name: {"command": ["true"], "checkpoint": {"directory": str(directory)}}
        for name, directory in directories.items()
    }
    path.write_text(json.dumps({"state_directory": str(place.state), "jobs": jobs}))
    return path


def test_two_jobs_with_one_checkpoint_directory_are_refused_by_the_configuration(place: Place) -> None:
    path = configuration(place, {"a": place.path / "same", "b": place.path / "same"})

    checked = place.pawl("config", "check", str(path))
    refused = place.run(program=[PAWLD, "--config", str(path)])

    for ended in (checked, refused):
        assert "jobs.b.checkpoint.directory" in ended.output
    assert refused.code == 78, refused.output
    assert not place.state.exists()


def test_two_jobs_whose_checkpoint_directories_are_one_by_a_symlink_are_not_both_started(place: Place) -> None:
    (place.path / "real").mkdir()
    (place.path / "link").symlink_to("real")
    path = configuration(place, {"a": place.path / "real", "b": place.path / "link"})

    refused = place.run(program=[PAWLD, "--config", str(path)])

    assert refused.code == 1, refused.output
    assert f"another pawl holds '{place.path}/link/.lock'" in refused.output
    assert "job 'b'" in refused.output


# ---- the clock ----


def shifted(seconds: int) -> dict[str, str]:
    return {"LD_PRELOAD": CLOCK, "PAWL_CLOCK_OFFSET_S": str(seconds)}


def test_a_clock_set_back_a_day_changes_neither_the_choice_nor_the_cadence(
    place: Place, tiny_reference: Reference
) -> None:
    durable = killed_in_third_commit(place)
    daemon = place.start(slow(place), environment=shifted(-DAY_S))
    wait_for_durable(place)
    assert f"resumes from checkpoint {durable} " in place.output()
    daemon.send_signal(signal.SIGTERM)
    assert place.end(daemon).code == 75

    times = {one["sequence"]: one["time"] for one in place.json("checkpoints", "list")}
    newest = max(times)
    assert newest > durable
    assert times[newest] < times[durable], "the newer one is dated a day before"
    ended = place.run(tiny(place))

    assert ended.code == 0, ended.output
    assert f"resumes from checkpoint {newest} " in ended.output, "by sequence, not by time"
    place.assert_equal_to(tiny_reference)
    place.assert_ended_with_the_file_of(tiny_reference)


def test_no_age_is_negative_after_a_clock_was_set_back(place: Place) -> None:
    killed_in_third_commit(place)
    daemon = place.start(slow(place), ["--every-steps", "1000"], environment=shifted(-DAY_S))
    wait_for_output(place, "resumes from checkpoint")

    status = place.pawl("status")
    listed = subprocess.run(
        ["env", *(f"{name}={value}" for name, value in shifted(-DAY_S).items()), *list_command(place)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    daemon.send_signal(signal.SIGTERM)
    place.end(daemon)

    for text in (status.output, listed):
        assert re.search(r"dated (1d00h|23h59m) ahead", text), text
        assert not re.search(r"-\d+(ms|s|m|h|d)", text), text


def list_command(place: Place) -> list[str]:
    return [PAWL, "checkpoints", "list", "--state-dir", str(place.state)]


def test_a_cadence_by_time_goes_on_though_the_clock_was_set_back(place: Place, tiny_reference: Reference) -> None:
    by_time = ["--every", "1s", "--every-steps", "100000"]
    killed_in_third_commit(place)

    ended = place.run(tiny(place, 60_000), by_time, environment=shifted(-DAY_S))

    assert ended.code == 0, ended.output
    assert ended.output.count("(cadence, ") >= 2, ended.output
    place.assert_equal_to(tiny_reference)


# ---- what is in the newest checkpoint ----


def rewrite_manifest(checkpoint: Path, **changes: object) -> None:
    path = checkpoint / "manifest.json"
    body = json.loads(path.read_text())
    del body["digest"]
    path.write_text(with_digest({**body, **changes}))


def test_a_newest_checkpoint_with_a_file_missing_is_set_aside(place: Place, tiny_reference: Reference) -> None:
    durable = killed_in_third_commit(place)
    (place.newest() / "rank-00000.pt").unlink()

    ended = place.run(tiny(place))

    assert ended.code == 0, ended.output
    assert "rank-00000.pt: " in ended.output and "No such file or directory" in ended.output
    assert f"resumes from checkpoint {durable - 1} " in ended.output
    place.assert_equal_to(tiny_reference)


def test_a_file_too_many_in_the_newest_checkpoint_changes_nothing(place: Place, tiny_reference: Reference) -> None:
    durable = killed_in_third_commit(place)
    note = place.newest() / "note.txt"
    note.write_text("the good one")

    ended = place.run(tiny(place), ["--keep-last", "100"])

    assert_resumed(ended, place, durable, tiny_reference)
    assert note.read_text() == "the good one"


def test_a_newest_checkpoint_of_a_newer_format_stops_the_job_and_stays(place: Place) -> None:
    killed_in_third_commit(place)
    newest = place.newest()
    rewrite_manifest(newest, format_version=2)

    ended = place.run(tiny(place))

    assert ended.code == 65, ended.output
    assert "format version 2" in ended.output and str(newest) in ended.output
    assert (newest / "rank-00000.pt").exists()
    assert not (place.checkpoints / "quarantine").exists()


def test_a_manifest_that_names_a_file_outside_is_damaged_and_nothing_outside_is_read(
    place: Place, tiny_reference: Reference
) -> None:
    durable = killed_in_third_commit(place)
    newest = place.newest()
    files = json.loads((newest / "manifest.json").read_text())["files"]
    # It would be valid if it were believed.
    shutil.copy(newest / "rank-00000.pt", newest.parent / "x")
    rewrite_manifest(newest, files=[{**files[0], "name": "../x"}])

    ended = place.run(tiny(place))

    assert ended.code == 0, ended.output
    assert "file name '../x' is none that a checkpoint can hold" in ended.output
    assert f"resumes from checkpoint {durable - 1} " in ended.output
    assert (place.checkpoints / "x").exists()
    place.assert_equal_to(tiny_reference)
