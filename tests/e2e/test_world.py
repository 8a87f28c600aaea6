"""What the world does to a run: full disks, wrong commands, wrong configurations, a second daemon."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import PAWL, PAWLD, Place, Reference, processes_of, wait_for
from test_ranks import RANK

DISK_SIZE = "1500k"  # holds five checkpoints of this trainer


def test_a_full_disk_costs_checkpoints_but_neither_training_nor_what_is_durable(
    place: Place, reference: Reference, small_disk: Path
) -> None:
    options = ["--checkpoint-dir", str(small_disk), "--keep-last", "100"]

    daemon = place.start(options=options)
    wait_for(lambda: "It is kept in memory; next try in" in place.output(), "the final checkpoint to fail")

    assert "No space left on device" in place.output()
    assert "Training goes on" in place.output()
    verified = place.pawl("checkpoints", "verify", "--checkpoint-dir", str(small_disk))
    assert verified.code == 0, verified.output
    assert len([p.name for p in small_disk.iterdir() if p.name[0].isdigit()]) >= 3
    assert not [p.name for p in small_disk.iterdir() if p.name.startswith(".tmp-")]

    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    ended = place.end(daemon)
    assert ended.code == 0, ended.output
    place.assert_equal_to(reference)


def test_a_stop_does_not_wait_for_a_final_checkpoint_that_cannot_be_written(
    place: Place, reference: Reference, small_disk: Path
) -> None:
    options = ["--checkpoint-dir", str(small_disk), "--keep-last", "100"]
    daemon = place.start(options=options)
    wait_for(lambda: "It is kept in memory; next try in" in place.output(), "the final checkpoint to fail")

    daemon.send_signal(signal.SIGTERM)
    stopped = place.end(daemon, deadline_s=15)
    ended = place.run(options=[*options, "--keep-last", "2"])

    assert stopped.code == 75, stopped.output
    assert ended.code == 0, ended.output
    place.assert_equal_to(reference)


def test_a_disk_full_of_what_nobody_wants_is_cleared_before_the_next_checkpoint(
    place: Place, reference: Reference, small_disk: Path
) -> None:
    options = ["--checkpoint-dir", str(small_disk), "--keep-last", "100"]
    daemon = place.start(options=options)
    wait_for(lambda: "No space left on device" in place.output(), "the disk to be full")
    daemon.send_signal(signal.SIGTERM)
    assert place.end(daemon).code == 75

    ended = place.run(options=[*options, "--keep-last", "2"])

    assert ended.code == 0, ended.output
    assert "No space left on device" not in ended.output
    place.assert_equal_to(reference)


WORDS = ["[0]", "[4, 7]", "[]", "[[1],[2]]", "x=[1]", '{"a": 1}', "", "'q'", '"q"', "a b", "-x", "--ranks", "3", "--", "%%", "\\n"]


@pytest.mark.parametrize("options", [["--every-steps", "5", "--"], ["--every-steps=5", "--ranks", "1"]])
def test_a_command_gets_its_arguments_word_for_word(place: Place, options: list[str]) -> None:
    show = "import json, sys; print(json.dumps(sys.argv[1:]))"
    ended = place.run(program=[PAWL, "run", *options, sys.executable, "-c", show, *WORDS])

    assert ended.code == 0, ended.output
    assert json.dumps(WORDS) in ended.output.splitlines()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no command to run. Usage: pawl run [OPTIONS] -- COMMAND"),
        (["--every-steps", "5", "--"], "no command to run"),
        (["--every-step", "5", "--", "true"], "not expected: --every-step"),
        (["--every-steps", "0", "--", "true"], "--every-steps: expected a whole number from 1, not '0'"),
        (["--every-steps", "-3", "--", "true"], "--every-steps: expected a whole number from 1, not '-3'"),
        (["--keep-every-steps", "9" * 30, "true"], "expected a whole number from 1, not '999"),
    ],
)
def test_a_wrong_command_line_is_refused_with_what_is_wrong(place: Place, words: list[str], message: str) -> None:
    ended = place.pawl("run", *words)

    assert ended.code == 64
    assert message in ended.output
    assert not place.state.exists()


def test_a_command_that_is_not_found_is_said_and_not_tried_again(place: Place) -> None:
    ended = place.run(["no-such-trainer"])

    assert ended.code == 127
    assert "No such file or directory" in ended.output
    assert "'no-such-trainer'" in ended.output
    assert "restarting" not in ended.output


def test_a_name_can_not_begin_a_line_of_the_log_nor_colour_it(place: Place) -> None:
    ended = place.run(["./no\npawl: error: \x1b[31mfire"])

    assert ended.code != 0
    assert "./no\\npawl: error: \\x1b[31mfire" in ended.output
    assert all(line.startswith("pawl: ") for line in ended.output.splitlines())
    assert "pawl: error: \x1b" not in ended.output
    events = place.json("journal", "events")
    assert any("\\x1b[31mfire" in event["text"] for event in events)


def test_a_command_that_may_not_be_run_is_said(place: Place) -> None:
    script = place.path / "script"
    script.write_text("#!/bin/sh\n")

    ended = place.run([str(script)])

    assert ended.code == 126
    assert f"'{script}'" in ended.output
    assert "Permission denied" in ended.output


def test_a_command_that_exits_at_once_is_not_restarted_for_ever(place: Place) -> None:
    ended = place.run(["sh", "-c", "exit 3"], ["--max-restarts", "2"])

    assert ended.code == 3
    assert ended.output.count("exited with code 3") == 4
    assert "2 restarts brought no progress" in ended.output


def test_a_second_daemon_on_one_state_directory_is_refused_and_the_first_goes_on(
    place: Place, reference: Reference
) -> None:
    first = place.start()
    place.wait_for_step(5, first)

    second = place.run()

    assert second.code == 69, second.output
    assert "another pawl holds" in second.output
    assert place.end(first).code == 0
    place.assert_equal_to(reference)


def test_two_jobs_on_one_checkpoint_directory_are_refused(place: Place, reference: Reference) -> None:
    first = place.start()
    place.wait_for_step(5, first)

    second = place.run(options=["--state-dir", "other", "--checkpoint-dir", str(place.checkpoints)])

    assert second.code == 69, second.output
    assert "another pawl holds" in second.output
    assert str(place.checkpoints) in second.output
    assert place.end(first).code == 0
    place.assert_equal_to(reference)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [(1, 2, "is of 1 rank, the job has 2 ranks"), (2, 1, "is of 2 ranks, the job has 1 rank")],
    ids=["more", "fewer"],
)
def test_another_number_of_ranks_is_refused_with_both_numbers_and_the_checkpoint_stays(
    place: Place, before: int, after: int, words: str
) -> None:
    train = "rank.attach(); rank.train(until={}); rank.finish()"
    assert place.run([*RANK, train.format(20)], ["--ranks", str(before)]).code == 0

    refused = place.run([*RANK, train.format(30)], ["--ranks", str(after)])
    again = place.run([*RANK, train.format(30)], ["--ranks", str(before)])

    assert refused.code == 65
    assert f"/{sorted(place.committed())[1]}' {words}" in refused.output
    assert "resumes from checkpoint 2 (step 20)" in again.output
    assert again.code == 0, again.output


def write_config(place: Place, text: str) -> Path:
    path = place.path / "pawld.yaml"
    path.write_text(text)
    return path


BAD_CONFIGS = [
    (
        "jobs:\n  lm:\n    comand: [true]\n",
        r"pawld\.yaml:3:5: unknown key 'jobs\.lm\.comand'; did you mean 'command'\?",
    ),
    (
        "jobs:\n  lm:\n    command: [true]\n    ranks: two\n    checkpoint: {directory: c}\n",
        r"pawld\.yaml:4:12: key 'jobs\.lm\.ranks': expected a whole number",
    ),
    ("jobs: [\n", r"pawld\.yaml:\d+:\d+: "),
]


BAD_IDS = ["typo", "wrong type", "syntax"]


@pytest.mark.parametrize(("text", "message"), BAD_CONFIGS, ids=BAD_IDS)
def test_a_wrong_configuration_is_refused_with_file_line_and_column(place: Place, text: str, message: str) -> None:
    path = write_config(place, text)

    checked = place.pawl("config", "check", str(path))
    started = place.run(program=[PAWLD, "--config", str(path)])

    assert re.search(message, checked.output), checked.output
    assert re.search(message, started.output), started.output
    assert started.code == 78


def test_a_configuration_that_is_not_there_is_said(place: Place) -> None:
    checked = place.pawl("config", "check", "missing.yaml")
    started = place.run(program=[PAWLD, "--config", "missing.yaml"])

    assert started.code == 78
    for output in (checked.output, started.output):
        assert "'missing.yaml': No such file or directory" in output


@pytest.mark.parametrize("text", [None, *(text for text, _ in BAD_CONFIGS)], ids=["missing", *BAD_IDS])
@pytest.mark.parametrize("options", [[], ["--json"]], ids=["as text", "as JSON"])
def test_a_check_of_a_wrong_configuration_exits_with_78(place: Place, text: str | None, options: list[str]) -> None:
    path = write_config(place, text) if text else place.path / "missing.yaml"

    checked = place.pawl("config", "check", str(path), *options)

    assert checked.code == 78, checked.output


def write_service(place: Place, state: str) -> Path:
    return write_config(
        place,
        f"state_directory: {state}\njobs:\n  fashion:\n    command: [{', '.join(place.trainer())}]\n"
        f"    checkpoint: {{directory: {state}/checkpoints, every_steps: 10}}\n",
    )


def test_pawld_as_a_service_tells_systemd_and_drains_at_sigterm(place: Place, reference: Reference) -> None:
    config = write_service(place, ".pawl")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(place.path / "notify"))
    listener.settimeout(0.2)
    told: list[str] = []

    def is_told(word: str) -> bool:
        with contextlib.suppress(TimeoutError):
            told.append(listener.recv(65536).decode())
        return any(word in message for message in told)

    environment = {"NOTIFY_SOCKET": str(place.path / "notify"), "WATCHDOG_USEC": "400000"}
    daemon = place.start(program=[PAWLD, "--config", str(config)], environment=environment)
    wait_for(lambda: is_told("READY=1"), "READY")
    wait_for(lambda: is_told("WATCHDOG=1"), "WATCHDOG")
    place.wait_for_step(20, daemon)
    daemon.send_signal(signal.SIGTERM)
    wait_for(lambda: is_told("STOPPING=1"), "STOPPING")
    wait_for(lambda: is_told("EXTEND_TIMEOUT_USEC="), "EXTEND_TIMEOUT_USEC")
    stopped = place.end(daemon)

    assert stopped.code == 0, stopped.output
    assert place.json("checkpoints", "show")["reason"] == "sigterm"
    assert processes_of(place.path) == []

    again = place.start(program=[PAWLD, "--config", str(config)])
    wait_for(lambda: (job := place.job()) and job["state"] == "finished", "the end of the job")
    again.send_signal(signal.SIGTERM)
    assert place.end(again).code == 0
    place.assert_equal_to(reference)


def test_a_service_answers_to_its_state_directory_and_outlives_its_job(place: Place, reference: Reference) -> None:
    config = write_service(place, "service")
    there = ["--state-dir", str(place.path / "service")]
    daemon = place.start(program=[PAWLD, "--config", str(config)])

    def job() -> dict[str, Any]:
        done = place.pawl("status", "--json", *there)
        return dict(json.loads(done.output)["jobs"][0]) if done.code == 0 else {"step": 0, "state": ""}

    wait_for(lambda: job()["step"] >= 15, "step 15")
    text = place.pawl("status", *there)
    asked = place.pawl("checkpoint", *there)
    wait_for(lambda: "(request, " in place.output(), "the checkpoint that was asked for")
    stopped = place.pawl("stop", *there)
    wait_for(lambda: job()["state"] == "stopped", "the stop")

    assert text.code == 0
    assert "fashion: running" in text.output
    assert not [line for line in text.output.splitlines() if len(line) > 80 and "directory" not in line], text.output
    assert (asked.code, stopped.code) == (0, 0), asked.output + stopped.output
    assert daemon.poll() is None
    assert place.pawl("checkpoint", *there).code == 69
    daemon.send_signal(signal.SIGTERM)
    assert place.end(daemon).code == 0
    ended = place.run(options=["--name", "fashion", *there])
    assert ended.code == 0, ended.output
    place.assert_equal_to(reference)


def test_logs_shows_what_a_rank_printed(place: Place) -> None:
    assert place.run().code == 0

    shown = place.pawl("logs", "--lines", "1")

    assert shown.output.startswith("finished: best test accuracy")


def test_ranks_have_the_environment_of_torchrun(place: Place) -> None:
    names = "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT TORCHELASTIC_RESTART_COUNT"
    script = f'for name in {names}; do eval "echo $name=\\$$name"; done > environment-$RANK; env > all-$RANK'

    ended = place.run(["sh", "-c", script], ["--ranks", "2"], environment={"PAWL_SECRET": "x", "NOTIFY_SOCKET": ""})

    assert ended.code == 0, ended.output
    seen = dict(line.split("=") for line in (place.path / "environment-1").read_text().splitlines())
    port = seen.pop("MASTER_PORT")
    assert 0 < int(port) < 65536
    assert seen == {
        "RANK": "1",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
    other = dict(line.split("=") for line in (place.path / "environment-0").read_text().splitlines())
    assert other["MASTER_PORT"] == port
    assert "PAWL_SECRET" not in (place.path / "all-0").read_text()


def test_one_process_without_ranks_finds_nothing_of_torchruns(place: Place) -> None:
    """A program that finds RANK takes itself for one of many."""
    given = {"RANK": "3", "WORLD_SIZE": "4", "MASTER_ADDR": "10.0.0.1"}
    ended = place.run(["sh", "-c", "env > seen"], environment=given)

    assert ended.code == 0, ended.output
    names = {line.split("=", 1)[0] for line in (place.path / "seen").read_text().splitlines()}
    assert not names & {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT", "TORCHELASTIC_RUN_ID"}
    assert "MASTER_ADDR=10.0.0.1" in (place.path / "seen").read_text().splitlines()
    assert {"PAWL_SOCKET", "PAWL_JOB", "PAWL_INCARNATION"} <= names
    ended = place.run(["sh", "-c", "env > seen"], ["--ranks", "1"])
    assert "WORLD_SIZE=1" in (place.path / "seen").read_text().splitlines()
