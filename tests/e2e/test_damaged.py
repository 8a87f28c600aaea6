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


def remove_file(checkpoint: Path) -> None:
    (checkpoint / "rank-00000.pt").unlink()


DAMAGES: list[tuple[Callable[[Path], None], str]] = [
    (flip_a_bit, "rank-00000.pt, chunk 0"),
    (truncate, "the manifest says"),
    (remove_manifest, "manifest.json"),
    (damage_manifest, "it was changed"),
    (remove_file, "rank-00000.pt"),
]


def interrupted(place: Place) -> None:
    """A run that was stopped after several checkpoints."""
    daemon = place.start()
    place.wait_for_step(35, daemon)
    daemon.send_signal(signal.SIGTERM)
    stopped = place.end(daemon)
    assert stopped.code == 75, stopped.output
    assert len(place.committed()) == 3


@pytest.mark.parametrize(("damage", "reason"), DAMAGES, ids=[damage.__name__ for damage, _ in DAMAGES])
def test_a_damaged_newest_checkpoint_is_quarantined_and_the_one_before_is_used(
    place: Place, reference: Reference, damage: Callable[[Path], None], reason: str
) -> None:
    interrupted(place)
    newest = place.newest()
    before = place.committed()[-2]
    damage(newest)

    ended = place.run()

    assert ended.code == 0, ended.output
    assert f"checkpoint {newest.name} is damaged and was moved to" in ended.output
    assert reason in ended.output
    assert f"resumes from checkpoint {int(before.split('-')[0])} " in ended.output
    assert (place.checkpoints / "quarantine" / newest.name).is_dir()
    place.assert_equal_to(reference)


def test_it_does_not_begin_again_when_all_checkpoints_are_damaged(place: Place, reference: Reference) -> None:
    interrupted(place)
    names = place.committed()
    for name in names:
        flip_a_bit(place.checkpoints / name)

    first = place.run()
    second = place.run()

    for ended in (first, second):
        assert ended.code == 65, ended.output
        assert "no valid checkpoint is left" in ended.output
        assert "Not begun again at step 0" in ended.output
    assert sorted(p.name for p in (place.checkpoints / "quarantine").iterdir()) == names

    (place.path / "losses").unlink()
    fresh = place.run(options=["--start-fresh"])
    assert fresh.code == 0, fresh.output
    assert "beginning again at step 0 as configured" in fresh.output
    assert int(place.committed()[0].split("-")[0]) > int(names[-1].split("-")[0]), "sequences are never reused"
    place.assert_equal_to(reference)


def test_verify_names_file_chunk_record_and_tensor_of_a_flipped_bit(place: Place) -> None:
    interrupted(place)
    good = place.pawl("checkpoints", "verify")
    assert good.code == 0, good.output
    assert zipfile.ZipFile(place.newest() / "rank-00000.pt").testzip() is None
    flip_a_bit(place.newest())

    bad = place.pawl("checkpoints", "verify", "latest")
    as_json = place.json("checkpoints", "verify")

    assert bad.code == 65
    for word in ("DAMAGED", "rank-00000.pt", "chunk 0", "record archive/data/", "model_state_dict."):
        assert word in bad.output, bad.output
    assert [entry["valid"] for entry in as_json] == [False, True, True]
    assert as_json[0]["damages"][0]["record"].startswith("archive/data/")


def test_a_deleted_journal_is_rebuilt_from_the_manifests(place: Place, reference: Reference) -> None:
    interrupted(place)
    known = {entry["sequence"] for entry in place.json("checkpoints", "list")}
    shutil.rmtree(place.state / "journal")

    ended = place.run()

    assert ended.code == 0, ended.output
    assert "were not in the journal and are now" in ended.output
    assert known <= {entry["sequence"] for entry in place.json("journal", "checkpoints")}
    place.assert_equal_to(reference)


def test_a_damaged_journal_is_moved_aside_and_does_not_keep_training_from_resuming(
    place: Place, reference: Reference
) -> None:
    interrupted(place)
    (place.state / "journal" / "CURRENT").write_text("rubbish\n")

    ended = place.run()

    assert ended.code == 0, ended.output
    assert "the journal was damaged" in ended.output
    assert [p.name for p in place.state.iterdir() if p.name.startswith("journal.damaged-")]
    place.assert_equal_to(reference)


def test_the_journal_tells_what_has_happened(place: Place) -> None:
    interrupted(place)
    assert place.run().code == 0

    incarnations = place.json("journal", "incarnations")
    progress = place.json("journal", "progress", "--limit", "1000")
    checkpoints = {entry["sequence"]: entry for entry in place.json("journal", "checkpoints")}
    events = [event["kind"] for event in place.json("journal", "events", "--limit", "1000")]

    assert [(one["incarnation"], one["state"]) for one in incarnations] == [(0, "ended"), (1, "ended")]
    assert incarnations[1]["resumed_from"] is not None
    assert [one["epoch"] for one in progress if one["epoch_end"]] == [1, 2]
    assert {entry["state"] for entry in checkpoints.values()} == {"committed", "removed"}
    assert {"started", "checkpoint_committed", "draining", "resuming", "finished"} <= set(events)


def test_a_checkpoint_of_a_newer_format_is_refused_and_left_where_it_is(place: Place) -> None:
    interrupted(place)
    path = place.newest() / "manifest.json"
    text = path.read_text()
    body = json.loads(text)
    del body["digest"]
    body["format_version"] = 2
    path.write_text(with_digest(body))

    ended = place.run()

    assert ended.code == 65, ended.output
    assert "format version 2" in ended.output
    assert "a newer pawl" in ended.output
    assert path.exists()


def with_digest(body: dict[str, object]) -> str:
    """A manifest as a newer pawl would have written it: docs/formats.md, "manifest.json"."""
    xxhash = pytest.importorskip("xxhash", reason="python3-xxhash is needed to write another manifest")
    text = json.dumps(body, indent=2, sort_keys=True)[: -len("\n}")]
    return f'{text},\n  "digest": "{xxhash.xxh3_128_hexdigest(text.encode())}"\n}}\n'
