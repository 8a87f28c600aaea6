"""Damaged checkpoints and journals: set aside, said, and gone on from what is valid."""

from __future__ import annotations

import json
import shutil
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Place, Reference


def flip_a_bit(checkpoint: Path) -> None:
    """In a weight: torch.load would not notice."""
    path = checkpoint / "rank-00000.pt"
    content = bytearray(path.read_bytes())
    content[60_000] ^= 0x10
    path.write_bytes(content)


def truncate(checkpoint: Path) -> None:
    path = checkpoint / "rank-00000.pt"
    path.write_bytes(path.read_bytes()[:-1000])


def remove_manifest(checkpoint: Path) -> None:
    (checkpoint / "manifest.json").unlink()


def damage_manifest(checkpoint: Path) -> None:
    path = checkpoint / "manifest.json"
    path.write_text(path.read_text().replace('"step": ', '"step": 1', 1))


def cut_manifest(checkpoint: Path) -> None:
    path = checkpoint / "manifest.json"
    path.write_text(path.read_text()[:200])


def remove_file(checkpoint: Path) -> None:
    (checkpoint / "rank-00000.pt").unlink()


DAMAGES: list[tuple[Callable[[Path], None], str]] = [
    (flip_a_bit, "rank-00000.pt, chunk 0"),
    (truncate, "the manifest says"),
    (remove_manifest, "manifest.json"),
    (damage_manifest, "it was changed"),
    (cut_manifest, "manifest.json"),
    (remove_file, "rank-00000.pt"),
]


@pytest.fixture(scope="module")
def stopped_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped after several checkpoints."""
    place = Place(tmp_path_factory.mktemp("stopped_run"))
    daemon = place.start()
    place.wait_for_step(35, daemon)
    daemon.send_signal(signal.SIGTERM)
    stopped = place.end(daemon)
    assert stopped.code == 75, stopped.output
    assert len(place.committed()) == 3
    return place.path


@pytest.fixture
def interrupted(place: Place, stopped_run: Path) -> Place:
    """A copy of that run, as on another machine: to be damaged and gone on with."""
    not_copied = shutil.ignore_patterns("*.sock", "log-*")
    shutil.copytree(stopped_run, place.path, symlinks=True, dirs_exist_ok=True, ignore=not_copied)
    return place


@pytest.mark.parametrize(("damage", "reason"), DAMAGES, ids=[damage.__name__ for damage, _ in DAMAGES])
def test_a_damaged_newest_checkpoint_is_quarantined_and_the_one_before_is_used(
    interrupted: Place, reference: Reference, damage: Callable[[Path], None], reason: str
) -> None:
    newest = interrupted.newest()
    before = interrupted.committed()[-2]
    damage(newest)

    ended = interrupted.run()

    assert ended.code == 0, ended.output
    assert f"checkpoint {newest.name} is damaged and was moved to" in ended.output
    assert reason in ended.output
    assert f"resumes from checkpoint {int(before.split('-')[0])} " in ended.output
    assert (interrupted.checkpoints / "quarantine" / newest.name).is_dir()
    interrupted.assert_equal_to(reference)
    interrupted.assert_ended_with_the_file_of(reference)


def test_a_daemon_killed_while_it_sets_a_checkpoint_aside_does_not_use_it_later(
    interrupted: Place, reference: Reference
) -> None:
    newest = interrupted.newest()
    before = interrupted.committed()[-2]
    flip_a_bit(newest)
    crashed = interrupted.run(environment={"PAWL_CRASH_POINT": "set aside: renamed"})
    assert crashed.code == -signal.SIGKILL, crashed.output

    ended = interrupted.run()

    assert ended.code == 0, ended.output
    assert f"resumes from checkpoint {int(before.split('-')[0])} " in ended.output
    assert (interrupted.checkpoints / "quarantine" / newest.name).is_dir()
    assert int(interrupted.newest().name.split("-")[0]) > int(newest.name.split("-")[0]), "sequences are never reused"
    interrupted.assert_equal_to(reference)


@pytest.mark.parametrize("point", ["retention: renamed", "set aside: renamed"])
def test_after_a_kill_the_journal_calls_committed_what_the_directory_holds(interrupted: Place, point: str) -> None:
    flip_a_bit(interrupted.newest())
    crashed = interrupted.run(options=["--keep-last", "1"], environment={"PAWL_CRASH_POINT": point})
    assert crashed.code == -signal.SIGKILL, crashed.output

    ended = interrupted.run()

    assert ended.code == 0, ended.output
    known = interrupted.json("journal", "checkpoints", "--limit", "1000")
    committed = [entry["sequence"] for entry in known if entry["state"] == "committed"]
    assert committed == [int(name.split("-")[0]) for name in interrupted.committed()]


def test_it_does_not_begin_again_when_all_checkpoints_are_damaged(interrupted: Place, reference: Reference) -> None:
    names = interrupted.committed()
    for name in names:
        flip_a_bit(interrupted.checkpoints / name)

    first = interrupted.run()
    second = interrupted.run()

    for ended in (first, second):
        assert ended.code == 65, ended.output
        assert "no valid checkpoint is left" in ended.output
        assert "Not begun again at step 0" in ended.output
    assert sorted(p.name for p in (interrupted.checkpoints / "quarantine").iterdir()) == names

    (interrupted.path / "losses").unlink()
    fresh = interrupted.run(options=["--start-fresh"])
    assert fresh.code == 0, fresh.output
    assert "beginning again at step 0 as configured" in fresh.output
    assert int(interrupted.committed()[0].split("-")[0]) > int(names[-1].split("-")[0]), "sequences are never reused"
    interrupted.assert_equal_to(reference)


def test_verify_names_file_chunk_record_and_tensor_of_a_flipped_bit(interrupted: Place) -> None:
    good = interrupted.pawl("checkpoints", "verify")
    assert good.code == 0, good.output
    assert zipfile.ZipFile(interrupted.newest() / "rank-00000.pt").testzip() is None
    flip_a_bit(interrupted.newest())

    bad = interrupted.pawl("checkpoints", "verify", "latest")
    as_json = interrupted.json("checkpoints", "verify")

    assert bad.code == 65
    for word in ("DAMAGED", "rank-00000.pt", "chunk 0", "record archive/data/", "model_state_dict."):
        assert word in bad.output, bad.output
    assert [entry["valid"] for entry in as_json] == [False, True, True]
    assert as_json[0]["damages"][0]["record"].startswith("archive/data/")


def test_a_deleted_journal_is_rebuilt_from_the_manifests(interrupted: Place, reference: Reference) -> None:
    known = {entry["sequence"] for entry in interrupted.json("checkpoints", "list")}
    shutil.rmtree(interrupted.state / "journal")

    ended = interrupted.run()

    assert ended.code == 0, ended.output
    assert "were not in the journal and are now" in ended.output
    assert known <= {entry["sequence"] for entry in interrupted.json("journal", "checkpoints")}
    interrupted.assert_equal_to(reference)


def test_a_damaged_journal_is_moved_aside_and_does_not_keep_training_from_resuming(
    interrupted: Place, reference: Reference
) -> None:
    (interrupted.state / "journal" / "CURRENT").write_text("rubbish\n")

    ended = interrupted.run()

    assert ended.code == 0, ended.output
    assert "the journal was damaged" in ended.output
    assert [p.name for p in interrupted.state.iterdir() if p.name.startswith("journal.damaged-")]
    interrupted.assert_equal_to(reference)


def test_the_journal_tells_what_has_happened(interrupted: Place) -> None:
    assert interrupted.run().code == 0

    incarnations = interrupted.json("journal", "incarnations")
    progress = interrupted.json("journal", "progress", "--limit", "1000")
    checkpoints = {entry["sequence"]: entry for entry in interrupted.json("journal", "checkpoints")}
    events = [event["kind"] for event in interrupted.json("journal", "events", "--limit", "1000")]

    assert [(one["incarnation"], one["state"]) for one in incarnations] == [(0, "ended"), (1, "ended")]
    assert incarnations[1]["resumed_from"] is not None
    assert [one["epoch"] for one in progress if one["epoch_end"]] == [1, 2]
    assert {entry["state"] for entry in checkpoints.values()} == {"committed", "removed"}
    assert {"started", "checkpoint_committed", "draining", "resuming", "finished"} <= set(events)


def test_a_checkpoint_of_a_newer_format_is_refused_and_left_where_it_is(interrupted: Place) -> None:
    path = interrupted.newest() / "manifest.json"
    text = path.read_text()
    body = json.loads(text)
    del body["digest"]
    body["format_version"] = 2
    path.write_text(with_digest(body))

    ended = interrupted.run()

    assert ended.code == 65, ended.output
    assert "format version 2" in ended.output
    assert "a newer pawl" in ended.output
    assert path.exists()


def with_digest(body: dict[str, object]) -> str:
    """A manifest as a newer pawl would have written it: docs/formats.md, "manifest.json"."""
    xxhash = pytest.importorskip("xxhash", reason="python3-xxhash is needed to write another manifest")
    text = json.dumps(body, indent=2, sort_keys=True)[: -len("\n}")]
    return f'{text},\n  "digest": "{xxhash.xxh3_128_hexdigest(text.encode())}"\n}}\n'
