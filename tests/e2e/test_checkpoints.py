"""What people do with checkpoints: roll back, pin, keep the best, import, export, compare, scrub."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from conftest import LAST_STEP, PAWL, PAWLD, Place, Reference, wait_for

ROLLBACK_POINTS = [
    "rollback: decision written",
    "rollback: decided",
    "set aside: renamed",
    "rollback: all moved",
    "rollback: latest moved",
    "rollback: decision removed",
]
PIN_POINTS = ["pin: file made", "unpin: file removed"]
EXPORT_POINTS = ["export: copied", "export: renamed"]

KEEP_ALL = ["--keep-last", "100"]


@pytest.fixture(scope="module")
def stopped_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped after step 40, with all its checkpoints."""
    place = Place(tmp_path_factory.mktemp("stopped_run"))
    daemon = place.start(options=KEEP_ALL)
    place.wait_for_step(41, daemon)
    daemon.send_signal(signal.SIGTERM)
    stopped = place.end(daemon)
    assert stopped.code == 75, stopped.output
    assert len(place.committed()) >= 5
    return place.path


@pytest.fixture
def stopped(place: Place, stopped_run: Path) -> Place:
    not_copied = shutil.ignore_patterns("*.sock", "log-*")
    shutil.copytree(stopped_run, place.path, symlinks=True, dirs_exist_ok=True, ignore=not_copied)
    return place


def manifest_of(checkpoint: Path) -> dict[str, Any]:
    return dict(json.loads((checkpoint / "manifest.json").read_text()))


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


def flip_a_bit(checkpoint: Path) -> None:
    path = checkpoint / "rank-00000.pt"
    content = bytearray(path.read_bytes())
    content[60_000] ^= 0x10
    path.write_bytes(content)


# ---- rollback ----


def test_after_a_rollback_training_goes_on_from_there_and_says_where_it_came_from(
    stopped: Place, reference: Reference
) -> None:
    newer = stopped.committed()[2:]

    done = stopped.pawl("rollback", "2")
    after = stopped.committed()
    ended = stopped.run(options=KEEP_ALL)

    assert done.code == 0, done.output
    assert done.output == f"rolled back to checkpoint 2 (step 20): {len(newer)} newer ones are in 'abandoned'\n"
    assert after == ["000001-step-10", "000002-step-20"]
    assert names_in(stopped.checkpoints / "abandoned") == newer
    assert ended.code == 0, ended.output
    assert "resumes from checkpoint 2 (step 20)" in ended.output
    first = manifest_of(stopped.checkpoints / stopped.committed()[2])
    assert first["parent"] == 2
    assert first["sequence"] == int(newer[-1].split("-")[0]) + 1, "sequences are never reused"
    assert first["step"] == 30
    stopped.assert_equal_to(reference)
    stopped.assert_ended_with_the_file_of(reference)
    known = {entry["sequence"]: entry for entry in stopped.json("journal", "checkpoints", "--limit", "100")}
    for name in newer:
        entry = known[int(name.split("-")[0])]
        assert (entry["state"], entry["detail"]) == ("abandoned", "rolled back to checkpoint 2")
    assert "rolled_back" in {event["kind"] for event in stopped.json("journal", "events", "--limit", "100")}


@pytest.mark.parametrize("point", ROLLBACK_POINTS)
def test_a_rollback_that_is_killed_leaves_what_was_before_or_what_comes_after(
    stopped: Place, reference: Reference, point: str
) -> None:
    before = stopped.committed()

    stopped.start(program=[PAWL, "rollback", "2"], environment={"PAWL_CRASH_POINT": point})
    crashed = stopped.end(stopped.running[-1])
    verified = stopped.pawl("checkpoints", "verify")
    ended = stopped.run(options=KEEP_ALL)

    assert crashed.code == -signal.SIGKILL, crashed.output
    assert verified.code == 0, verified.output
    assert ended.code == 0, ended.output
    is_before = f"resumes from checkpoint {int(before[-1].split('-')[0])} " in ended.output
    is_after = "resumes from checkpoint 2 " in ended.output
    assert is_before == (point == "rollback: decision written"), ended.output
    assert is_after != is_before, ended.output
    if is_after:
        assert names_in(stopped.checkpoints / "abandoned") == before[2:]
    assert not [name for name in names_in(stopped.checkpoints) if name.startswith((".tmp-", "rollback"))]
    stopped.assert_equal_to(reference)


def test_a_rollback_to_a_damaged_or_unknown_checkpoint_moves_nothing(stopped: Place) -> None:
    before = names_in(stopped.checkpoints)
    flip_a_bit(stopped.checkpoints / "000002-step-20")

    damaged = stopped.pawl("rollback", "2")
    unknown = stopped.pawl("rollback", "77")

    assert damaged.code == 65, damaged.output
    assert "rank-00000.pt, chunk 0" in damaged.output
    assert "Nothing was moved" in damaged.output
    assert unknown.code == 66, unknown.output
    assert names_in(stopped.checkpoints) == before


def test_a_rollback_of_a_running_job_is_refused(place: Place) -> None:
    daemon = place.start(options=KEEP_ALL)
    place.wait_for_step(25, daemon)

    by_daemon = place.pawl("rollback", "1")
    by_hand = place.pawl("rollback", "1", "--checkpoint-dir", str(place.checkpoints))
    ended = place.end(daemon)

    assert by_daemon.code == 69, by_daemon.output
    assert "pawl stop" in by_daemon.output
    assert by_hand.code == 69, by_hand.output
    assert "another pawl holds" in by_hand.output
    assert ended.code == 0, ended.output
    assert not (place.checkpoints / "abandoned").exists()


def service(place: Place, checkpoint: str) -> list[str]:
    """A pawld with the usual job, and what the configuration says of its checkpoints."""
    path = place.path / "pawld.yaml"
    path.write_text(
        f"state_directory: .pawl\njobs:\n  fashion:\n    command: [{', '.join(place.trainer())}]\n"
        f"    checkpoint: {{directory: elsewhere, every_steps: 10, {checkpoint}}}\n"
    )
    return [PAWLD, "--config", str(path)]


def test_a_stopped_job_of_a_running_daemon_is_rolled_back_through_it(place: Place, reference: Reference) -> None:
    program = service(place, "keep_last: 100")
    daemon = place.start(program=program)
    place.wait_for_step(35, daemon)
    place.pawl("stop")
    wait_for(lambda: (job := place.job()) and job["state"] == "stopped", "the stop")

    done = place.pawl("rollback", "000002-step-20")
    job = wait_for(lambda: (job := place.job()) and job["checkpoint"]["sequence"] == 2 and job, "its status")
    unknown = place.pawl("rollback", "999")
    listed = place.json("checkpoints", "list")
    daemon.send_signal(signal.SIGTERM)
    assert place.end(daemon).code == 0
    again = place.start(program=program)
    wait_for(lambda: (job := place.job()) and job["state"] == "finished", "the end of the job")
    again.send_signal(signal.SIGTERM)
    ended = place.end(again)

    assert done.code == 0, done.output
    assert "rolled back to checkpoint 2 (step 20)" in job["last_event"]
    assert unknown.code == 66, unknown.output
    assert [one["sequence"] for one in listed] == [2, 1], "the daemon knows where the job's checkpoints are"
    assert "resumes from checkpoint 2 (step 20)" in ended.output
    place.assert_equal_to(reference)


# ---- pins and what is kept ----


def test_a_checkpoint_pinned_while_the_daemon_runs_outlives_retention(place: Place) -> None:
    daemon = place.start(options=["--keep-last", "2"])
    place.wait_for_step(15, daemon)
    pinned = place.pawl("pin", "1")
    ended = place.end(daemon)
    listed = place.json("checkpoints", "list")
    verified = place.json("checkpoints", "verify")
    unpinned = place.pawl("unpin", "1")
    assert place.run(options=["--keep-last", "2"]).code == 0

    assert pinned.code == 0, pinned.output
    assert ended.code == 0, ended.output
    assert [(one["step"], one["pinned"]) for one in listed] == [(100, False), (100, False), (10, True)]
    assert all(one["valid"] and not one["extra"] for one in verified)
    assert unpinned.code == 0, unpinned.output
    assert "000001-step-10" not in place.committed()


@pytest.mark.parametrize("point", PIN_POINTS)
def test_a_pin_that_is_killed_costs_no_checkpoint(stopped: Place, point: str) -> None:
    before = stopped.committed()
    word = point.split(":")[0]
    if word == "unpin":
        assert stopped.pawl("pin", "1").code == 0

    stopped.start(program=[PAWL, word, "1"], environment={"PAWL_CRASH_POINT": point})
    crashed = stopped.end(stopped.running[-1])
    again = stopped.pawl(word, "1")

    assert crashed.code == -signal.SIGKILL
    assert again.code == 0, again.output
    assert stopped.pawl("checkpoints", "verify").code == 0
    assert stopped.committed() == before
    assert stopped.json("checkpoints", "list")[-1]["pinned"] == (word == "pin")


def test_one_for_each_so_many_steps_and_the_best_are_kept_for_ever(place: Place) -> None:
    ended = place.run(options=["--keep-last", "1", "--keep-every-steps", "40", "--keep-best", "accuracy:max"])

    assert ended.code == 0, ended.output
    kept = place.json("checkpoints", "list")
    with_metric = [one for one in kept if "accuracy" in one["metrics"]]
    assert {40, 80, 100} <= {one["step"] for one in kept}
    assert len(kept) <= 4
    assert with_metric, kept
    wrong = place.pawl("run", "--keep-best", "accuracy", "--", "true")
    assert wrong.code == 64
    assert "METRIC:min" in wrong.output


def test_a_limit_of_size_lets_the_oldest_go_and_says_when_it_cannot_be_met(place: Place) -> None:
    ended = place.run(options=[*KEEP_ALL, "--keep-bytes", "600KiB", "--keep-every-steps", "50"])

    assert ended.code == 0, ended.output
    assert [one["step"] for one in place.json("checkpoints", "list")][-1] == 50
    assert len(place.committed()) == 3
    assert ended.output.count("above the limit") == 1, ended.output


# ---- import, export, diff ----


def test_a_plain_torch_save_file_becomes_a_checkpoint_and_comes_out_as_it_went_in(place: Place) -> None:
    torch = pytest.importorskip("torch")
    source = place.path / "epoch3.pth"
    torch.save({"epoch": 3, "step": 777, "model_state_dict": {"w": torch.arange(100_000.0)}}, source)

    nowhere = place.pawl("checkpoints", "import", str(source))
    imported = place.pawl("checkpoints", "import", str(source), "--checkpoint-dir", ".pawl/checkpoints")
    shown = place.json("checkpoints", "show")
    exported = place.pawl("checkpoints", "export", "latest", "out.pt")
    again = place.pawl("checkpoints", "export", "latest", "out.pt")
    as_said = place.pawl("checkpoints", "import", str(source), "--step", "5", "--epoch", "1")

    assert nowhere.code == 66, nowhere.output
    assert "--checkpoint-dir" in nowhere.output
    assert imported.code == 0, imported.output
    assert (shown["step"], shown["epoch"], shown["reason"], shown["parent"]) == (777, 3, "import", None)
    assert exported.code == 0, exported.output
    assert (place.path / "out.pt").read_bytes() == source.read_bytes()
    assert again.code == 64, again.output
    assert as_said.code == 0, as_said.output
    assert place.committed() == ["000001-step-777", "000002-step-5"]
    assert place.pawl("checkpoints", "verify").code == 0


def test_what_is_no_whole_torch_save_file_is_not_imported(place: Place) -> None:
    torch = pytest.importorskip("torch")
    good = place.path / "good.pth"
    torch.save({"step": 1, "w": torch.zeros(1000)}, good)
    without_step = place.path / "without_step.pth"
    torch.save({"w": torch.zeros(10)}, without_step)
    content = bytearray(good.read_bytes())
    for name, damaged in {
        "flipped.pth": content[:1500] + bytes([content[1500] ^ 1]) + content[1501:],
        "cut.pth": content[:-10],
        "text.pth": b"hello",
        "empty.pth": b"",
    }.items():
        (place.path / name).write_bytes(damaged)
        refused = place.pawl("checkpoints", "import", name, "--checkpoint-dir", ".pawl/checkpoints")
        assert refused.code in (65, 70), f"{name}: {refused.output}"
        assert "cannot import" in refused.output
    asked = place.pawl("checkpoints", "import", str(without_step), "--checkpoint-dir", ".pawl/checkpoints")

    assert zipfile.ZipFile(good).testzip() is None
    assert asked.code == 64, asked.output
    assert "--step" in asked.output
    assert not place.checkpoints.exists() or place.committed() == []


def test_training_goes_on_from_what_was_exported_and_imported_elsewhere(stopped: Place, reference: Reference) -> None:
    assert stopped.pawl("checkpoints", "export", "2", "carried.pt").code == 0
    shutil.rmtree(stopped.state)

    imported = stopped.pawl("checkpoints", "import", "carried.pt", "--checkpoint-dir", str(stopped.checkpoints))
    ended = stopped.run()

    assert imported.code == 0, imported.output
    assert ended.code == 0, ended.output
    assert "resumes from checkpoint 1 (step 20)" in ended.output
    stopped.assert_equal_to(reference)


@pytest.mark.parametrize("point", EXPORT_POINTS)
def test_an_export_that_is_killed_leaves_the_whole_target_or_none(stopped: Place, point: str) -> None:
    target = stopped.path / "out.pt"

    stopped.start(program=[PAWL, "checkpoints", "export", "2", str(target)], environment={"PAWL_CRASH_POINT": point})
    crashed = stopped.end(stopped.running[-1])

    assert crashed.code == -signal.SIGKILL
    if target.exists():
        assert target.read_bytes() == (stopped.checkpoints / "000002-step-20" / "rank-00000.pt").read_bytes()
    assert target.exists() == (point == "export: renamed")
    target.unlink(missing_ok=True)
    assert stopped.pawl("checkpoints", "export", "2", str(target)).code == 0


def test_diff_names_what_differs_and_fits_a_terminal(stopped: Place) -> None:
    differ = stopped.pawl("checkpoints", "diff", "1", "2")
    same = stopped.pawl("checkpoints", "diff", "2", "000002-step-20")
    as_json = stopped.json("checkpoints", "diff", "1", "2")

    assert differ.code == 1, differ.output
    assert "~ step  10 -> 20" in differ.output
    assert "model_state_dict.conv1.weight" in differ.output
    assert not [line for line in differ.output.splitlines() if len(line) > 80], differ.output
    assert same.code == 0, same.output
    by_path = {one["path"]: one for one in as_json["files"][0]["differences"]}
    weight = by_path["model_state_dict.conv1.weight"]
    assert (weight["kind"], weight["elements"]) == ("elements", 144)
    assert 0 < weight["elements_differing"] <= 144
    assert weight["elements_differing"] <= weight["bytes_differing"] <= 4 * 144
    assert (by_path["step"]["a"], by_path["step"]["b"]) == ("10", "20")
    assert as_json["same"] is False


# ---- scrub and cadence ----


def test_a_scrub_finds_rot_before_it_is_needed(place: Place) -> None:
    program = service(place, "keep_last: 100, scrub_every: 1s")
    daemon = place.start(program=program)
    place.wait_for_step(25, daemon)
    flip_a_bit(place.path / "elsewhere" / "000001-step-10")

    wait_for(lambda: "scrub: checkpoint 000001-step-10 is damaged and was moved to" in place.output(), "the scrub")
    job = wait_for(lambda: (job := place.job()) and job["damaged_found"] and job, "the status")
    text = place.pawl("status").output
    wait_for(lambda: (job := place.job()) and job["state"] == "finished", "the end of the job")
    wait_for(lambda: "all are valid" in place.output(), "a scrub that finds nothing")
    events = [event["kind"] for event in place.json("journal", "events", "--limit", "100")]
    daemon.send_signal(signal.SIGTERM)
    ended = place.end(daemon)

    assert ended.code == 0, ended.output
    assert job["damaged_found"] == 1
    assert job["scrubbed"] is not None
    assert "1 found by scrubs" in text
    aside = place.path / "elsewhere" / "quarantine" / "000001-step-10"
    assert "rank-00000.pt, chunk 0" in json.loads((aside / "set-aside.json").read_text())["why"]
    assert {"scrubbed", "checkpoint_quarantined"} <= set(events)
    assert place.pawl("checkpoints", "verify", "--checkpoint-dir", "elsewhere").code == 0


def test_the_only_checkpoint_there_is_stays_though_a_scrub_found_it_damaged(place: Place) -> None:
    program = service(place, "keep_last: 1, scrub_every: 1s")
    daemon = place.start(program=program)
    wait_for(lambda: (job := place.job()) and job["state"] == "finished", "the end of the job")
    wait_for(lambda: place.output().count("all are valid") > 0, "a scrub")
    (only,) = (path for path in (place.path / "elsewhere").iterdir() if path.name.startswith("0000"))
    flip_a_bit(only)

    wait_for(lambda: "stays where it is, for no other valid one is known" in place.output(), "the scrub")
    daemon.send_signal(signal.SIGTERM)

    assert place.end(daemon).code == 0
    assert only.exists()


def test_an_automatic_cadence_is_said_once_a_checkpoint_has_been_measured(place: Place) -> None:
    program = service(place, "every: auto")
    daemon = place.start(program=program)
    said = r"a checkpoint every \d+s from now on: one costs \d+ms, a failure is expected every 1d00h"
    wait_for(lambda: re.search(said, place.output()), "the cadence")
    daemon.send_signal(signal.SIGTERM)

    assert place.end(daemon).code == 0


def test_set_aside_checkpoints_go_after_seven_days_and_pinned_ones_stay(stopped: Place) -> None:
    assert stopped.pawl("rollback", "2").code == 0
    abandoned = stopped.checkpoints / "abandoned"
    old, pinned, young = names_in(abandoned)[:3]
    for name in (old, pinned):
        then = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(time.time() - 8 * 86400))
        (abandoned / name / "set-aside.json").write_text(json.dumps({"time": then, "why": "a test"}))
    os.close(os.open(abandoned / pinned / "pinned", os.O_CREAT))

    ended = stopped.run(options=KEEP_ALL)

    assert ended.code == 0, ended.output
    left = names_in(abandoned)
    assert old not in left
    assert {pinned, young} <= set(left)
    assert max(one["step"] for one in stopped.json("checkpoints", "list")) == LAST_STEP
