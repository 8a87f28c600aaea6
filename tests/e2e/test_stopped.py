"""Orderly stops: SIGTERM in every phase, from every side."""

from __future__ import annotations

import os
import signal
import subprocess

from conftest import LAST_STEP, TRAINER, Place, Reference, wait_for


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


def test_sigterm_during_an_evaluation_does_not_wait_for_its_end(place: Place) -> None:
    # One epoch of 10 steps, then an evaluation of 10,000 images, longer than the training.
    command = [TRAINER, "--epochs", "1", "--train-samples", "640", "--losses", str(place.path / "losses")]
    daemon = place.start(command, ["--every-steps", "1000"])
    wait_for(
        lambda: (job := place.job()) and job["ranks"] and job["ranks"][0]["phase"] == "evaluation",
        "the evaluation",
    )

    daemon.send_signal(signal.SIGTERM)
    stopped = place.end(daemon)

    assert stopped.code == 75, stopped.output
    newest = place.json("checkpoints", "show")
    assert (newest["reason"], newest["step"], newest["epoch"]) == ("sigterm", 10, 0)
    ended = place.run(command)
    assert ended.code == 0, ended.output
    assert place.json("checkpoints", "show")["epoch"] == 1


def test_an_unattached_program_gets_sigterm_itself(place: Place) -> None:
    script = 'trap "echo asked to stop; exit 0" TERM; echo ready; while :; do sleep 0.05; done'
    daemon = place.start(["sh", "-c", script])
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

    assert place.pawl("checkpoint").code == 0
    wait_for(lambda: place.committed(), "the checkpoint")
    reason = place.json("checkpoints", "show")["reason"]
    assert place.pawl("stop").code == 0
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
    assert "reason" in (place.path / "checkpoints" / "latest" / "manifest.json").read_text()

    ended = place.run(program=command)

    assert ended.code == 0, ended.output
    assert "resumed at step" in ended.output
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

    text = subprocess.run(
        [TRAINER.replace("fashion_mnist", "pawl"), "status"], cwd=place.path, capture_output=True, text=True, check=True
    ).stdout
    daemon.kill()

    long = [line for line in text.splitlines() if len(line) > 80 and not line.startswith("  directory")]
    assert not long, text
    for word in ("running", "progress", "checkpoint", "incarnation", "verified"):
        assert word in text
    place.end(daemon)
    place.end(place.start())
