"""Orderly stops: SIGTERM in every phase, from every side."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import LAST_STEP, PAWL, TRAINER, Place, Reference, undisturbed, wait_for


def test_sigterm_in_mid_training_saves_that_step_and_exits_with_75(place: Place, reference: Reference) -> None:
    daemon = place.start(options=["--every-steps", "1000"])
    place.wait_for_step(20, daemon)

    daemon.send_signal(signal.SIGTERM)
    stopped = place.end(daemon)

    assert stopped.code == 75, stopped.output
    newest = place.json("checkpoints", "show")
    assert newest["reason"] == "sigterm"
    assert newest["step"] >= 20
    ended = place.run()
    assert ended.code == 0, ended.output
    place.assert_equal_to(reference)


def test_sigterm_in_the_first_moments_is_heard(place: Place) -> None:
    for _ in range(10):  # in which of them it comes is chance
        shutil.rmtree(place.state, ignore_errors=True)
        daemon = place.start(["sleep", "1000"])
        wait_for((place.state / "journal").exists, "the journal", interval_s=0)
        daemon.send_signal(signal.SIGTERM)

        stopped = place.end(daemon)

        assert stopped.code == 75, stopped.output
        assert "stopp" in stopped.output, stopped.output


def evaluates_long(place: Path) -> list[str]:
    """Two epochs of 10 steps, and after each an evaluation of 10,000 images, longer than the training."""
    files = ["--losses", str(place / "losses"), "--weights", str(place / "weights")]
    return [TRAINER, "--epochs", "2", "--train-samples", "640", *files]


@pytest.fixture(scope="module")
def long_reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    place = Place(tmp_path_factory.mktemp("long_reference"))
    return undisturbed(place, evaluates_long(place.path), 20)


def stop_in_evaluation(place: Place, epoch: int) -> None:
    daemon = place.start(evaluates_long(place.path), ["--every-steps", "1000"])

    def evaluates() -> bool:
        job = place.job()
        return bool(job and job["epoch"] == epoch and job["ranks"] and job["ranks"][0]["phase"] == "evaluation")

    wait_for(evaluates, f"the evaluation of epoch {epoch}")
    daemon.send_signal(signal.SIGTERM)
    stopped = place.end(daemon)

    assert stopped.code == 75, stopped.output
    assert f"epoch {epoch}: test accuracy" not in stopped.output, "it waited for the evaluation's end"
    newest = place.json("checkpoints", "show")
    assert (newest["reason"], newest["step"], newest["epoch"]) == ("sigterm", 10 * (epoch + 1), epoch)


def test_sigterm_during_an_evaluation_does_not_wait_for_its_end(place: Place, long_reference: Reference) -> None:
    stop_in_evaluation(place, epoch=0)

    ended = place.run(evaluates_long(place.path))

    assert ended.code == 0, ended.output
    assert place.json("checkpoints", "show")["epoch"] == 2
    place.assert_equal_to(long_reference)


def test_a_stop_in_the_last_evaluation_leaves_no_trace_in_the_last_checkpoint(
    place: Place, long_reference: Reference
) -> None:
    stop_in_evaluation(place, epoch=1)

    ended = place.run(evaluates_long(place.path))

    assert ended.code == 0, ended.output
    place.assert_ended_with_the_file_of(long_reference)


def test_sigterm_while_the_trainer_still_starts_stops_it_all_the_same(place: Place, reference: Reference) -> None:
    daemon = place.start()
    wait_for(lambda: (job := place.job()) and job["ranks"] and job["ranks"][0]["pid"], "a rank")

    daemon.send_signal(signal.SIGTERM)
    stopped = place.end(daemon)
    ended = place.run()

    assert stopped.code == 75, stopped.output
    assert ended.code == 0, ended.output
    place.assert_equal_to(reference)


def test_an_unattached_program_gets_sigterm_itself(place: Place) -> None:
    script = (
        "import signal\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n"
        "print('ready', flush=True)\n"
        "signal.sigwait([signal.SIGTERM])\n"
        "print('asked to stop', flush=True)\n"
    )
    daemon = place.start([sys.executable, "-c", script])
    wait_for(lambda: "ready" in place.output(), "the script to be ready")

    daemon.send_signal(signal.SIGTERM)
    stopped = place.end(daemon)

    assert "asked to stop" in stopped.output
    assert stopped.code == 75, stopped.output


def test_a_program_that_ignores_sigterm_is_killed_when_its_grace_is_over(place: Place) -> None:
    daemon = place.start(["sh", "-c", 'trap "" TERM; echo ready; while :; do sleep 0.05; done'], ["--grace", "1s"])
    wait_for(lambda: "ready" in place.output(), "the script to be ready")

    daemon.send_signal(signal.SIGTERM)
    stopped = place.end(daemon)

    assert "ranks that did not leave in time were killed" in stopped.output
    assert stopped.code == 75, stopped.output


def test_a_checkpoint_and_a_stop_can_be_asked_for_by_hand(place: Place, reference: Reference) -> None:
    daemon = place.start(options=["--every-steps", "1000"])
    place.wait_for_step(5, daemon)

    asked = place.pawl("checkpoint")
    assert (asked.code, asked.output) == (0, "job 'run' is asked for a checkpoint; 'pawl status' shows the newest\n")
    wait_for(lambda: place.committed(), "the checkpoint")
    reason = place.json("checkpoints", "show")["reason"]
    asked = place.pawl("stop")
    assert (asked.code, asked.output) == (0, "job 'run' is asked to save and stop\n")
    stopped = place.end(daemon)

    assert reason == "request"
    assert stopped.code == 75, stopped.output
    ended = place.run()
    assert ended.code == 0, ended.output
    place.assert_equal_to(reference)


def test_a_run_without_a_daemon_saves_at_sigterm_and_resumes(place: Place, reference: Reference) -> None:
    command = place.trainer("--every-steps", "10")
    alone = place.start(program=command)
    wait_for(
        lambda: (place.path / "losses").exists() and len((place.path / "losses").read_text().splitlines()) > 20,
        "20 steps",
    )
    alone.send_signal(signal.SIGTERM)
    stopped = place.end(alone)
    assert stopped.code == 0, stopped.output
    newest = place.json("checkpoints", "show", "--checkpoint-dir", "checkpoints")
    assert newest["reason"] == "sigterm"

    ended = place.run(program=command)

    assert ended.code == 0, ended.output
    assert f"resumed at step {newest['step']}, epoch {newest['epoch']}" in ended.output
    place.assert_equal_to(reference)


def test_a_finished_run_that_is_started_again_finishes_at_once(place: Place, reference: Reference) -> None:
    assert place.run().code == 0
    newest = place.json("checkpoints", "show")
    assert (newest["reason"], newest["step"], newest["epoch"]) == ("final", LAST_STEP, 2)

    again = place.run()

    assert again.code == 0, again.output
    place.assert_equal_to(reference)


def test_a_second_sigterm_does_not_wait_for_a_checkpoint(place: Place) -> None:
    daemon = place.start(options=["--grace", "60s"])
    job = place.wait_for_step(10, daemon)
    # Attached, and hanging: no snapshot will come.
    os.kill(job["ranks"][0]["pid"], signal.SIGSTOP)

    daemon.send_signal(signal.SIGTERM)
    wait_for(lambda: "asking for a last checkpoint" in place.output(), "the drain")
    daemon.send_signal(signal.SIGTERM)
    stopped = place.end(daemon, deadline_s=20)

    assert "stopping without a last checkpoint" in stopped.output
    assert stopped.code == 75, stopped.output


def test_status_reads_well_at_80_columns(place: Place) -> None:
    daemon = place.start()
    place.wait_for_step(15, daemon)

    text = subprocess.run([PAWL, "status"], cwd=place.path, capture_output=True, text=True, check=True).stdout
    daemon.kill()

    long = [line for line in text.splitlines() if len(line) > 80 and not line.startswith("  directory")]
    assert not long, text
    for word in ("running", "progress", "checkpoint", "incarnation", "verified"):
        assert word in text
    place.end(daemon)
    place.end(place.start())


def test_a_rank_that_attaches_after_the_stop_leaves_at_once(place: Place) -> None:
    # Its handler of SIGTERM leaves the stop to the daemon, which it had not met yet.
    script = 'trap "" TERM; touch waits; while [ ! -e go ]; do sleep 0.02; done; exec "$@"'
    daemon = place.start(["sh", "-c", script, "late", *place.trainer("--epochs", "1000")], ["--every-steps", "1000"])
    wait_for(lambda: (place.path / "waits").exists(), "the rank")

    daemon.send_signal(signal.SIGTERM)
    wait_for(lambda: "stopping ranks that are not attached" in place.output(), "the stop")
    (place.path / "go").touch()
    stopped = place.end(daemon, deadline_s=25)

    assert stopped.code == 75, stopped.output
    assert "ranks that did not leave in time" not in stopped.output


def test_a_quit_stops_as_sigterm_does_and_a_signal_that_means_nothing_is_said(place: Place) -> None:
    daemon = place.start(options=["--every-steps", "1000"])
    place.wait_for_step(5, daemon)

    for number in (signal.SIGUSR1, signal.SIGUSR2):
        daemon.send_signal(number)
        wait_for(lambda number=number: f"{number.name} means nothing to pawl" in place.output(), number.name)
    daemon.send_signal(signal.SIGQUIT)
    stopped = place.end(daemon)

    assert stopped.code == 75, stopped.output
    assert place.committed(), "the state is saved"


def test_a_line_that_a_program_has_not_ended_is_left_alone_on_a_terminal(place: Place) -> None:
    """Neither a bar nor half a line is overwritten by the line of pawl's own."""
    lines = 'printf "Epoch 1 ... "; sleep 0.5; printf "loss 0.5\\n"; printf "\\rbar 1/2"; sleep 0.5; printf "\\rbar 2/2\\n"'
    # What pawl says of the start comes when it will, and ends a line: before that nothing is printed.
    program = f"until [ -e started ]; do sleep 0.01; done; {lines}"
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [PAWL, "run", "--", "sh", "-c", program], cwd=place.path, stdout=follower, stderr=follower, stdin=subprocess.DEVNULL
    )
    place.running.append(process)  # type: ignore[arg-type]
    os.close(follower)
    seen = b""
    while True:
        try:
            got = os.read(leader, 4096)
        except OSError:  # EIO: the other side is closed
            break
        if not got:
            break
        seen += got
        if b"one rank of 'sh' started" in seen:
            (place.path / "started").touch()
    os.close(leader)

    assert process.wait() == 0
    text = seen.decode()
    assert "Epoch 1 ... loss 0.5\r\n" in text, text
    assert "\rbar 1/2\rbar 2/2\r\n" in text, text
