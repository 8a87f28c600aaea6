"""Scripts that are not changed: what they save themselves survives, and is what they go on from."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
from pathlib import Path

import pytest
from adoption import ADOPT, COUNTER, PYTHON, alone, aside, epoch_in, flip_a_byte, said, script, tear
from adoption import has_torch as has_torch
from conftest import ROOT, Place, a_seed, wait_for
from faults import FAULTS, Fault, calls_in

ARTICLE = [PYTHON, str(ROOT / "examples" / "python" / "article.py")]
EPOCHS = 30
# Of a later test's crash points.
ADOPT_POINTS = ["adopt: examined", "adopt: committed"]
PUT_BACK_POINTS = ["put back: written", "put back: set aside", "put back: renamed"]


def killed_while_saving(command: list[str], plan: Path, below: Path) -> list[str]:
    """The command; incarnation N is killed at that write to the file which line N of the plan says, if it has one."""
    script = (
        f'at=$(sed -n "$((PAWL_INCARNATION + 1))p" "{plan}"); [ -z "$at" ] && exec "$@"; '
        f'exec env LD_PRELOAD="{FAULTS}" PAWL_FAULTS_BELOW="{below}" PAWL_FAULTS_KINDS=write '
        'PAWL_FAULTS_DO=kill-before PAWL_FAULTS_AT="$at" "$@"'
    )
    return ["sh", "-c", script, "script", *command]


def running_rank(place: Place, known: set[int]) -> int | None:
    job = place.job()
    pid = int(job["ranks"][0]["pid"]) if job and job["ranks"] else 0
    return pid if pid and pid not in known else None


def epochs_said(place: Place) -> int:
    log = place.state / "logs" / "rank-00000.log"
    return log.read_text().count("epoch ") if log.exists() else 0


# ---- the article's script ----


def test_the_articles_script_killed_ten_times_also_while_it_saves_ends_as_if_undisturbed(
    place: Place, tmp_path_factory: pytest.TempPathFactory
) -> None:
    epochs = ["--epochs", str(EPOCHS)]
    here = tmp_path_factory.mktemp("alone")
    file = here / "checkpoint.pth"
    counted = alone([*ARTICLE, *epochs], here, **Fault(file, kinds="write").environment(here / "writes"))
    assert counted.code == 0, counted.output
    writes = len(calls_in(here / "writes")) // EPOCHS
    assert writes > 1
    weights = (here / "weights.pth").read_bytes()

    # Alone, a kill inside torch.save costs everything: the script can't even start again.
    (here / "weights.pth").unlink()
    file.unlink()
    torn = alone(
        [*ARTICLE, *epochs], here, **Fault(file, at=2 * writes, kinds="write").environment(here / "torn-writes")
    )
    assert torn.code == -signal.SIGKILL, torn.output
    again = alone([*ARTICLE, *epochs], here)
    assert again.code == 1, again.output
    assert "torch.load" in again.output
    assert not (here / "weights.pth").exists()

    # Under pawl: five kills inside a save, in this epoch's or the next one's, and five anywhere.
    chance = random.Random(a_seed())
    plan = [str(chance.randint(1, 2 * writes)) if i % 2 == 0 else "" for i in range(10)]
    (place.path / "plan").write_text("\n".join(plan) + "\n")
    command = killed_while_saving([*ARTICLE, *epochs], place.path / "plan", place.path / "checkpoint.pth")
    daemon = place.start(command, ["--adopt", "checkpoint.pth", "--max-restarts", "20"])
    known: set[int] = set()
    for at in plan:
        pid = wait_for(lambda: running_rank(place, known), "the next incarnation")
        known.add(pid)
        if not at:
            # Anywhere: in its imports, or some moments after one or two of its epochs.
            wanted = epochs_said(place) + chance.randint(0, 2)
            wait_for(lambda: epochs_said(place) >= wanted, "an epoch")  # noqa: B023
            select.select([], [], [], chance.uniform(0, 0.1))
            os.kill(pid, signal.SIGKILL)
    ended = place.end(daemon)

    assert ended.code == 0, ended.output
    assert ended.output.count("was killed by SIGKILL") == 10
    assert "was torn while it was saved" in ended.output
    assert (place.path / "weights.pth").read_bytes() == weights
    assert place.pawl("checkpoints", "verify").code == 0
    assert place.manifests()[-1]["epoch"] == EPOCHS - 1


# ---- smaller scripts ----


@pytest.mark.parametrize("saves_under", ["checkpoint.pth", "checkpoint.pth.new"])
def test_every_version_is_a_checkpoint_and_the_last_one_counts(place: Place, saves_under: str) -> None:
    moved = "" if saves_under == "checkpoint.pth" else f'\n    os.replace("{saves_under}", "checkpoint.pth")'
    slow = COUNTER.replace(
        'save("checkpoint.pth", epoch=epoch)',
        f'save("{saves_under}", epoch=epoch){moved}\n    wait_for(f"go-{{epoch}}")',
    )
    daemon = place.start(script(place, slow), [*ADOPT, "--keep-last", "100"])
    for epoch in range(5):
        wait_for(lambda: len(place.committed()) == epoch + 1 if place.checkpoints.exists() else False, "a checkpoint")  # noqa: B023
        (place.path / f"go-{epoch}").touch()
    (place.path / "go-5").touch()
    ended = place.end(daemon)

    assert ended.code == 0, ended.output
    assert [manifest["epoch"] for manifest in place.manifests()] == [0, 1, 2, 3, 4, 5]
    newest = place.manifests()[-1]
    assert (newest["reason"], newest["step"], newest["world_size"]) == ("adopt", 5, 1)
    assert newest["adopted"][0]["path"] == "checkpoint.pth"
    assert (place.newest() / "checkpoint.pth").read_bytes() == (place.path / "checkpoint.pth").read_bytes()
    assert place.pawl("checkpoints", "verify").code == 0
    listed = place.pawl("checkpoints", "list")
    assert "adopt" in listed.output, listed.output


@pytest.mark.parametrize("point", [*ADOPT_POINTS, "commit: files allocated", "commit: data written", "commit: renamed"])
def test_a_daemon_killed_while_it_keeps_a_version_loses_none(place: Place, point: str) -> None:
    waits = COUNTER.replace('say("ends")', 'wait_for("go")\nsay("ends")')
    crashed = place.run(script(place, waits), ADOPT, environment={"PAWL_CRASH_POINT": f"{point}#1"})
    assert crashed.code == -signal.SIGKILL, crashed.output

    (place.path / "go").touch()
    ended = place.run(script(place, waits), ADOPT)

    assert ended.code == 0, ended.output
    assert said(place)[-1] == "ends"
    assert place.manifests()[-1]["epoch"] == 5
    assert epoch_in(place) == 5
    assert place.pawl("checkpoints", "verify").code == 0


@pytest.mark.parametrize("point", PUT_BACK_POINTS)
def test_a_daemon_killed_while_it_puts_a_file_back_has_it_back_at_the_next_start(place: Place, point: str) -> None:
    assert place.run(script(place, COUNTER), ADOPT).code == 0
    whole = (place.path / "checkpoint.pth").read_bytes()
    tear(place.path / "checkpoint.pth")
    crashed = place.run(script(place, COUNTER), ADOPT, environment={"PAWL_CRASH_POINT": point})
    assert crashed.code == -signal.SIGKILL, crashed.output

    ended = place.run(script(place, COUNTER), ADOPT)

    assert ended.code == 0, ended.output
    assert said(place) == ["begins at 0", "ends", "begins at 6", "ends"]
    assert (place.path / "checkpoint.pth").read_bytes() == whole
    assert aside(place.path) == [".checkpoint.pth.torn-1"]


def test_a_torn_file_is_set_aside_and_the_version_before_put_back(place: Place) -> None:
    file = place.path / "checkpoint.pth"
    assert place.run(script(place, COUNTER), ADOPT).code == 0
    whole = file.read_bytes()
    file.chmod(0o640)
    modified = file.stat().st_mtime_ns
    tear(file)

    ended = place.run(script(place, COUNTER), ADOPT)

    assert ended.code == 0, ended.output
    assert "was torn while it was saved (it has no zip end record" in ended.output
    assert "put back from checkpoint" in ended.output
    assert said(place)[-2:] == ["begins at 6", "ends"]
    assert file.read_bytes() == whole
    assert (file.stat().st_mode & 0o777, file.stat().st_mtime_ns) == (0o640, modified)
    assert (place.path / ".checkpoint.pth.torn-1").read_bytes() == whole[: len(whole) // 2]
    kinds = [record["kind"] for record in place.json("journal", "events")]
    assert "adopt" in kinds


def test_of_torn_files_the_newest_three_stay(place: Place) -> None:
    assert place.run(script(place, COUNTER), ADOPT).code == 0
    for _ in range(5):
        tear(place.path / "checkpoint.pth")
        assert place.run(script(place, COUNTER), ADOPT).code == 0

    assert aside(place.path) == [f".checkpoint.pth.torn-{n}" for n in (3, 4, 5)]


def test_one_flipped_bit_is_found_before_the_script_loads_it(place: Place) -> None:
    file = place.path / "checkpoint.pth"
    assert place.run(script(place, COUNTER), ADOPT).code == 0
    whole = file.read_bytes()
    at = whole.index(bytes(range(250))) + 100
    file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])

    ended = place.run(script(place, COUNTER), ADOPT)

    assert ended.code == 0, ended.output
    assert "record 'archive/data/0' does not have the CRC that it states" in ended.output
    assert file.read_bytes() == whole


def test_a_file_that_is_gone_is_put_back_with_its_directory(place: Place) -> None:
    body = COUNTER.replace("checkpoint.pth", "out/deep/c.pth").replace(
        "for epoch", 'os.makedirs("out/deep", exist_ok=True)\nfor epoch'
    )
    options = ["--adopt", "out/*/c.pth"]
    assert place.run(script(place, body), options).code == 0
    subprocess.run(["rm", "-r", str(place.path / "out")], check=True)

    ended = place.run(script(place, body), options)

    assert ended.code == 0, ended.output
    assert "'out/deep/c.pth' was put back from checkpoint" in ended.output
    assert said(place)[-2:] == ["begins at 6", "ends"]


def test_a_file_that_was_there_before_pawl_is_kept_and_not_overwritten(place: Place) -> None:
    assert alone(script(place, COUNTER.replace("range(start, 6)", "range(start, 3)")), place.path).code == 0

    ended = place.run(script(place, COUNTER), [*ADOPT, "--keep-last", "100"])

    assert ended.code == 0, ended.output
    assert said(place) == ["begins at 0", "ends", "begins at 3", "ends"]
    assert place.manifests()[0]["epoch"] == 2
    assert place.manifests()[-1]["epoch"] == 5


def test_what_the_script_saved_without_pawl_in_between_is_newer_and_wins(place: Place) -> None:
    assert place.run(script(place, COUNTER), ADOPT).code == 0
    assert alone(script(place, COUNTER.replace("6", "9")), place.path).code == 0

    ended = place.run(script(place, COUNTER.replace("6", "11")), ADOPT)

    assert ended.code == 0, ended.output
    assert said(place)[-2:] == ["begins at 9", "ends"]
    assert place.manifests()[-1]["epoch"] == 10


def test_an_older_copy_in_its_place_is_set_aside_for_the_newest(place: Place) -> None:
    file = place.path / "checkpoint.pth"
    assert alone(script(place, COUNTER.replace("6", "2")), place.path).code == 0
    older = file.read_bytes()
    times = (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    file.unlink()
    (place.path / "said").unlink()
    assert place.run(script(place, COUNTER.replace("epoch=epoch", "epoch=epoch, own=1")), ADOPT).code == 0
    file.write_bytes(older)
    os.utime(file, ns=times)

    ended = place.run(script(place, COUNTER), ADOPT)

    assert ended.code == 0, ended.output
    assert "'checkpoint.pth' is older than checkpoint" in ended.output
    assert said(place)[-2:] == ["begins at 6", "ends"]
    assert (place.path / ".checkpoint.pth.replaced-1").read_bytes() == older


def test_a_torn_file_of_before_pawl_is_set_aside_and_the_script_begins_anew(place: Place) -> None:
    (place.path / "checkpoint.pth").write_bytes(b"PK\3\4 and then the machine went away")

    ended = place.run(script(place, COUNTER), ADOPT)

    assert ended.code == 0, ended.output
    assert "'checkpoint.pth' is torn" in ended.output
    assert "there is no checkpoint of it: set aside as" in ended.output
    assert said(place) == ["begins at 0", "ends"]
    assert (place.path / ".checkpoint.pth.torn-1").read_bytes().startswith(b"PK\3\4 and")


@pytest.mark.parametrize("keep_last", ["1", "3"])
def test_of_a_damaged_checkpoint_the_file_that_is_still_whole_is_kept_again(place: Place, keep_last: str) -> None:
    slow = COUNTER.replace("epoch=epoch)", "epoch=epoch)\n    time.sleep(0.1)")
    assert place.run(script(place, slow), [*ADOPT, "--keep-last", keep_last]).code == 0
    flip_a_byte(place.newest() / "checkpoint.pth")

    ended = place.run(script(place, slow), [*ADOPT, "--keep-last", keep_last])

    assert ended.code == 0, ended.output
    assert "is damaged and was moved to" in ended.output
    assert said(place)[-2:] == ["begins at 6", "ends"]
    assert place.manifests()[-1]["epoch"] == 5


def test_with_the_file_and_all_checkpoints_damaged_nothing_begins_again(place: Place) -> None:
    assert place.run(script(place, COUNTER), [*ADOPT, "--keep-last", "1"]).code == 0
    flip_a_byte(place.newest() / "checkpoint.pth")
    tear(place.path / "checkpoint.pth")

    ended = place.run(script(place, COUNTER), ADOPT)

    assert ended.code == 65, ended.output
    assert "no valid checkpoint is left" in ended.output
    assert said(place) == ["begins at 0", "ends"]


def test_a_file_that_cannot_be_put_back_keeps_the_script_from_beginning_again(place: Place) -> None:
    file = place.path / "checkpoint.pth"
    assert place.run(script(place, COUNTER), ADOPT).code == 0
    file.unlink()
    file.mkdir()

    ended = place.run(script(place, COUNTER), ADOPT)

    assert ended.code == 74, ended.output
    assert f"cannot put '{file}' back" in ended.output
    assert "Not started" in ended.output
    assert said(place) == ["begins at 0", "ends"]
    file.rmdir()
    assert place.run(script(place, COUNTER), ADOPT).code == 0
    assert said(place)[-2:] == ["begins at 6", "ends"]


def test_a_rollback_takes_the_file_back(place: Place) -> None:
    slow = COUNTER.replace("epoch=epoch)", "epoch=epoch)\n    time.sleep(0.1)")
    assert place.run(script(place, slow), [*ADOPT, "--keep-last", "100"]).code == 0
    target = next(m for m in place.manifests() if m["epoch"] == 2)
    assert place.pawl("rollback", str(target["sequence"])).code == 0

    ended = place.run(script(place, slow), [*ADOPT, "--keep-last", "100"])

    assert ended.code == 0, ended.output
    assert said(place)[-2:] == ["begins at 3", "ends"]


def test_a_copy_under_a_second_name_stays_what_it_was(place: Place) -> None:
    copies = COUNTER.replace(
        "epoch=epoch)", 'epoch=epoch)\n    if epoch == 3: shutil.copyfile("checkpoint.pth", "model_best.pth.tar")'
    )
    assert place.run(script(place, copies), ADOPT).code == 0
    best = place.path / "model_best.pth.tar"
    before = (best.read_bytes(), best.stat().st_mtime_ns, best.stat().st_ino)
    tear(place.path / "checkpoint.pth")

    assert place.run(script(place, copies), ADOPT).code == 0

    assert (best.read_bytes(), best.stat().st_mtime_ns, best.stat().st_ino) == before
    assert epoch_in(place, "model_best.pth.tar") == 3
    assert sorted(path.name for path in place.newest().iterdir()) == ["checkpoint.pth", "manifest.json"]


def test_of_a_series_the_newest_is_kept_and_the_others_stay_as_they_are(place: Place) -> None:
    body = """
import glob
names = sorted(glob.glob("epoch_*.pth"))
start = load(names[-1])["epoch"] + 1 if names else 0
say(f"begins at {start}")
for epoch in range(start, 4):
    save(f"epoch_{epoch:03}.pth", epoch=epoch)
"""
    options = ["--adopt", "epoch_*.pth"]
    assert place.run(script(place, body), options).code == 0
    assert sorted(path.name for path in place.newest().iterdir()) == ["epoch_003.pth", "manifest.json"]
    older = [(place.path / f"epoch_{n:03}.pth").stat() for n in range(3)]
    tear(place.path / "epoch_003.pth")

    ended = place.run(script(place, body), options)

    assert ended.code == 0, ended.output
    assert said(place) == ["begins at 0", "begins at 4"]
    assert epoch_in(place, "epoch_003.pth") == 3
    assert [(place.path / f"epoch_{n:03}.pth").stat().st_ino for n in range(3)] == [s.st_ino for s in older]
    assert place.pawl("checkpoints", "verify").code == 0


def test_several_files_are_kept_together(place: Place) -> None:
    body = """
if os.path.exists("a/c.pth"):
    say(f"begins with {load('a/c.pth')['epoch']} and {load('b/c.pth')['epoch']}")
    sys.exit()
os.makedirs("a")
os.makedirs("b")
for epoch in range(3):
    save("a/c.pth", epoch=epoch)
    save("b/c.pth", epoch=10 + epoch)
"""
    options = ["--adopt", "a/c.pth", "--adopt", "b/c.pth"]
    assert place.run(script(place, body), options).code == 0
    newest = place.manifests()[-1]
    assert [(file["name"], file["path"]) for file in newest["adopted"]] == [
        ("c.pth", "a/c.pth"),
        ("2-c.pth", "b/c.pth"),
    ]
    (place.path / "a" / "c.pth").unlink()
    tear(place.path / "b" / "c.pth")

    ended = place.run(script(place, body), options)

    assert ended.code == 0, ended.output
    assert said(place) == ["begins with 2 and 12"]
    exported = place.pawl("checkpoints", "export", "latest", "copy")
    assert exported.code == 0, exported.output
    assert sorted(path.name for path in (place.path / "copy").iterdir()) == ["2-c.pth", "c.pth", "manifest.json"]


def test_a_symlink_stays_one(place: Place, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (place.path / "checkpoint.pth").symlink_to(elsewhere / "c.pth")
    assert place.run(script(place, COUNTER), ADOPT).code == 0
    whole = (elsewhere / "c.pth").read_bytes()
    (elsewhere / "c.pth").unlink()

    ended = place.run(script(place, COUNTER), ADOPT)

    assert ended.code == 0, ended.output
    assert (place.path / "checkpoint.pth").readlink() == elsewhere / "c.pth"
    assert (elsewhere / "c.pth").read_bytes() == whole
    assert said(place)[-2:] == ["begins at 6", "ends"]


def test_a_file_of_before_zip_is_named_once_and_the_job_goes_on(place: Place) -> None:
    body = """
import torch
for epoch in range(3):
    torch.save({"epoch": epoch}, "checkpoint.pth", _use_new_zipfile_serialization=False)
    time.sleep(0.1)
"""
    ended = place.run(script(place, body), ADOPT)

    assert ended.code == 0, ended.output
    assert ended.output.count("'checkpoint.pth' is not kept") == 1
    assert "_use_new_zipfile_serialization=False, leave that out" in ended.output
    assert place.committed() == []
    again = place.run(script(place, body), ADOPT)
    assert again.code == 0, again.output
    assert aside(place.path) == []
