"""History: what a killed and resumed run leaves in its journal, how one asks for it, and what may befall it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from typing import Any

import pytest
from conftest import LAST_STEP, PAWL, Place, Reference, wait_for

TABLES = ["events", "progress", "epochs", "incarnations", "checkpoints"]


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A run whose rank was killed once in the first epoch, and which is over."""
    place = Place(tmp_path_factory.mktemp("resumed"))
    daemon = place.start()
    job = place.wait_for_step(15, daemon)
    os.kill(job["ranks"][0]["pid"], signal.SIGKILL)
    ended = place.end(daemon)
    assert ended.code == 0, ended.output
    return place


def test_an_incarnation_says_how_it_ended_and_how_far_it_came(resumed: Place) -> None:
    killed, finished = resumed.json("journal", "incarnations")

    assert killed["state"] == finished["state"] == "ended"
    assert killed["ranks"][0]["exit"]["signal"] == signal.SIGKILL
    assert "SIGKILL" in killed["cause"]
    assert "code" not in killed["ranks"][0]["exit"]
    assert 15 <= killed["last_step"] == killed["steps_done"]
    assert finished["ranks"][0]["exit"]["code"] == 0
    assert finished["resumed_from"] is not None
    assert finished["last_step"] == LAST_STEP
    assert finished["steps_done"] == LAST_STEP - finished["resumed_step"]
    assert killed["started"] < killed["ended"] <= finished["started"] < finished["ended"]


def test_a_checkpoint_says_when_it_was_asked_for_and_what_became_of_it(resumed: Place) -> None:
    checkpoints = resumed.json("journal", "checkpoints", "--limit", "1000")
    resumed_from = resumed.json("journal", "incarnations")[1]["resumed_from"]

    for one in checkpoints:
        assert one["request"] >= 1
        assert one["asked"] <= one["snapshotted"] <= one["time"] <= one["durable"]
        assert one["durable_seconds"] >= one["write_seconds"] >= 0
        assert ("removed" in one) == (one["state"] == "removed")
    assert {one["incarnation"] for one in checkpoints} == {0, 1}
    assert [one["sequence"] for one in checkpoints if "verified" in one] == [resumed_from]
    assert checkpoints[-1]["reason"] == "final"


def test_the_end_of_an_epoch_comes_with_its_metrics(resumed: Place) -> None:
    epochs = resumed.json("journal", "epochs")

    assert [one["epoch"] for one in epochs] == [1, 2]
    for one in epochs:
        assert 0 < one["metrics"]["accuracy"] <= 1


@pytest.mark.parametrize("table", TABLES)
def test_the_text_reads_well_at_80_columns(resumed: Place, table: str) -> None:
    shown = resumed.pawl("journal", table, "--limit", "1000")

    assert shown.code == 0, shown.output
    lines = shown.output.splitlines()
    assert len(lines) > 2
    wide = [line for line in lines if len(line) > 80 and "/" not in line]
    assert not wide, "\n".join(wide)
    assert not [line for line in lines if line != line.rstrip()]


def test_questions_by_kind_severity_and_time(resumed: Place) -> None:
    everything = resumed.json("journal", "--limit", "1000")
    restart = next(one for one in everything if one["kind"] == "rank_exited" or "SIGKILL" in one["text"])

    starts = resumed.json("journal", "--kind", "started")
    bad = resumed.json("journal", "--severity", "warning")
    before = resumed.json("journal", "--until", restart["time"], "--limit", "1000")
    since = resumed.json("journal", "--since", restart["time"], "--limit", "1000")

    assert [one["kind"] for one in starts] == ["started", "started"]
    assert restart in bad
    assert all(one["severity"] != "info" for one in bad)
    assert before + since == everything
    assert resumed.json("journal", "--since", "1h", "--limit", "1000") == everything
    assert resumed.json("journal", "--until", "1h") == []
    assert resumed.pawl("journal", "--since", "soon").code == 64
    assert resumed.pawl("journal", "--job", "none").code == 66


def stop(place: Place, daemon: subprocess.Popen[str]) -> None:
    daemon.send_signal(signal.SIGTERM)
    assert place.end(daemon).code == 75


def pages(place: Place, table: str, limit: int) -> list[dict[str, Any]]:
    """All records, a few at a time."""
    records: list[dict[str, Any]] = []
    cursor = "start"
    while True:
        done = place.pawl("journal", table, "--after", cursor, "--limit", str(limit), "--json")
        answer = json.loads(done.output)
        records += answer["records"]
        cursor = answer["next"]
        if not answer["has_more"]:
            return records


@pytest.mark.parametrize("table", TABLES)
def test_pages_are_the_whole(resumed: Place, table: str) -> None:
    assert pages(resumed, table, 3) == resumed.json("journal", table, "--limit", "1000")


def test_following_shows_all_that_comes_also_beyond_the_daemons_end(place: Place) -> None:
    daemon = place.start()
    place.wait_for_step(10, daemon)
    output = place.path / "followed"
    with output.open("w") as file:
        follower = subprocess.Popen(
            [PAWL, "journal", "--follow", "--json", "--after", "start", "--limit", "5"],
            cwd=place.path,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        assert place.end(daemon).code == 0
        everything = place.json("journal", "--limit", "1000")
        wait_for(lambda: len(output.read_text().splitlines()) >= len(everything), "all events")
        assert follower.poll() is None
    finally:
        follower.kill()
        follower.wait()

    assert [json.loads(line) for line in output.read_text().splitlines()] == everything


def test_a_running_daemon_is_asked_and_its_newest_records_are_seen(place: Place) -> None:
    daemon = place.start(place.trainer("--epochs", "50"))
    place.wait_for_step(30, daemon)

    def newest() -> bool:
        job = place.job()
        [event] = place.json("journal", "--kind", "checkpoint_committed", "--limit", "1")
        return bool(job and f"checkpoint {job['checkpoint']['sequence']} " in event["text"])

    wait_for(newest, "the event of the newest checkpoint")
    (place.state / "journal").rename(place.state / "elsewhere")  # who reads it there finds nothing
    assert place.json("journal", "--limit", "1")
    (place.state / "elsewhere").rename(place.state / "journal")
    stop(place, daemon)


def test_a_damaged_journal_is_replaced_and_the_new_one_says_so(place: Place, reference: Reference) -> None:
    for count in range(1, 6):
        first = place.start(options=["--every-steps", "5"])
        place.wait_for_step(5 * count, first)
        stop(place, first)
        if count % 2 == 0:
            (place.state / "journal" / "CURRENT").unlink()
        else:
            (place.state / "journal" / "CURRENT").write_text("rubbish\n")
    named = place.manifests()

    ended = place.run()

    assert ended.code == 0, ended.output
    aside = sorted(path.name for path in place.state.iterdir() if path.name.startswith("journal.damaged-"))
    assert len(aside) == 3
    [event] = place.json("journal", "--kind", "journal_damaged")
    assert event["severity"] == "warning"
    assert aside[-1] in event["text"]
    assert "rebuilt from the checkpoints' manifests" in event["text"]
    [incarnation] = place.json("journal", "incarnations")
    assert incarnation["incarnation"] == max(one["incarnation"] for one in named) + 1
    sequences = [one["sequence"] for one in place.json("journal", "checkpoints", "--limit", "1000")]
    assert len(set(sequences)) == len(sequences)
    place.assert_equal_to(reference)


def test_a_journal_that_can_not_be_opened_costs_history_only(place: Place, reference: Reference) -> None:
    place.state.mkdir()
    (place.state / "journal").write_text("in the way\n")

    ended = place.run()

    assert ended.code == 0, ended.output
    assert ended.output.count("Training goes on without history") == 1
    assert len([line for line in ended.output.splitlines() if "journal" in line]) <= 3, ended.output
    place.assert_equal_to(reference)


def test_a_journal_on_a_full_disk_is_said_once_and_training_goes_on(place: Place) -> None:
    journal = place.state / "journal"
    journal.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "pawl", str(journal)], check=False)
    if mounted.returncode != 0:
        pytest.skip("a small disk can't be mounted here")
    try:
        daemon = place.start(place.trainer("--epochs", "1000"))
        place.wait_for_step(20, daemon)
        filler = journal / "filler"
        file = os.open(filler, os.O_CREAT | os.O_WRONLY)
        with pytest.raises(OSError, match="No space left"):
            while True:
                os.write(file, bytes(4096))
        os.close(file)

        failing = wait_for(lambda: (s := place.json("status")["journal"])["state"] == "failing" and s, "a failure")
        assert "No space left" in failing["why"]
        assert "journal FAILING" in place.pawl("status").output
        step = place.wait_for_step(0, daemon)["step"]
        place.wait_for_step(step + 50, daemon)
        committed = place.committed()
        wait_for(lambda: place.committed() != committed, "another checkpoint")
        filler.unlink()
        wait_for(lambda: place.json("status")["journal"]["state"] == "writing", "a journal that works again")

        said = [line for line in place.output().splitlines() if "journal" in line]
        assert len(said) == 2, "\n".join(said)
        assert "Training goes on; its history is lost" in said[0]
        assert re.search(r"takes writes again.* [1-9]\d* of its records", said[1])
        wait_for(lambda: place.json("journal", "--kind", "journal"), "the event of it")
        stop(place, daemon)
    finally:
        place.kill_what_runs()
        subprocess.run(["umount", str(journal)], check=True)


def test_logs_of_several_ranks_and_of_one_incarnation(place: Place) -> None:
    # The first that fails ends the others: all have printed by then.
    script = """
        echo "rank $RANK of incarnation $PAWL_INCARNATION"
        touch printed-$RANK
        while [ ! -e printed-0 ] || [ ! -e printed-1 ] || [ ! -e printed-2 ]; do sleep 0.01; done
        [ "$PAWL_INCARNATION" != 0 ] || exit 3
    """
    ended = place.run(["sh", "-c", script], options=["--ranks", "3", "--quiet"])
    assert ended.code == 0, ended.output

    assert place.pawl("logs").output.splitlines() == ["rank 0 of incarnation 0", "rank 0 of incarnation 1"]
    second = place.pawl("logs", "--all", "--incarnation", "1").output.splitlines()
    assert second == [f"[{rank}] rank {rank} of incarnation 1" for rank in range(3)]
    some = place.pawl("logs", "--rank", "0,2", "--incarnation", "1").output.splitlines()
    assert some == ["[0] rank 0 of incarnation 1", "[2] rank 2 of incarnation 1"]
    assert [one["text"] for one in place.json("logs", "--all", "--lines", "1")] == [
        f"rank {rank} of incarnation 1\n" for rank in range(3)
    ]
    assert place.pawl("logs", "--rank", "3").code == 66
    assert place.pawl("logs", "--incarnation", "9").code == 66
