"""The configuration while a daemon runs: reloads by SIGHUP and by `pawl reload`, jobs that come and go, wrong files."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import PAWLD, TRAINER, Place, processes_of, wait_for


@dataclass
class Service:
    """A pawld with a configuration that the test writes again."""

    place: Place

    @property
    def path(self) -> Path:
        return self.place.path / "pawld.yaml"

    def job(self, name: str, *lines: str, keep_last: int = 3, every_steps: int = 10) -> str:
        trainer = [TRAINER, "--epochs", "10000", "--train-samples", "3200", "--test-samples", "64"]
        body = [
            f"command: [{', '.join(trainer)}]",
            f"checkpoint: {{directory: checkpoints/{name}, every_steps: {every_steps}, keep_last: {keep_last}}}",
            *lines,
        ]
        return f"  {name}:\n" + "".join(f"    {line}\n" for line in body)

    def write(self, *jobs: str, head: str = "") -> None:
        """In place of what was there, at once: a reader sees the old file or the new one."""
        new = self.path.with_suffix(".new")
        new.write_text(f"state_directory: .pawl\n{head}jobs:\n{''.join(jobs)}")
        new.rename(self.path)

    def start(self, **more: Any) -> subprocess.Popen[str]:
        daemon = self.place.start(program=[PAWLD, "--config", str(self.path)], **more)
        wait_for(lambda: self.place.pawl("status").code == 0, "the daemon")
        return daemon

    def jobs(self) -> dict[str, dict[str, Any]]:
        done = self.place.pawl("status", "--json")
        return {job["name"]: job for job in json.loads(done.output)["jobs"]} if done.code == 0 else {}

    def wait_for_step(self, name: str, step: int) -> None:
        wait_for(lambda: (job := self.jobs().get(name)) and job["step"] >= step, f"step {step} of '{name}'")

    def reload(self) -> list[dict[str, Any]]:
        done = self.place.pawl("reload", "--json")
        assert done.code == 0, done.output
        return list(json.loads(done.output)["changes"])

    def committed(self, name: str) -> list[str]:
        folder = self.place.path / "checkpoints" / name
        return sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0].isdigit())

    def pid(self, name: str) -> int:
        return int(self.jobs()[name]["ranks"][0]["pid"])


@pytest.fixture
def service(place: Place) -> Iterator[Service]:
    """At its end the daemon is asked to leave, with all its jobs: killed, it would leave their ranks."""
    here = Service(place)
    yield here
    for daemon in place.running:
        if daemon.poll() is None:
            daemon.send_signal(signal.SIGTERM)
            assert place.end(daemon).code == 0


def test_a_reload_changes_a_running_job_and_leaves_its_process_alone(service: Service) -> None:
    service.write(service.job("lm", every_steps=1000000))
    service.start()
    service.wait_for_step("lm", 20)
    pid = service.pid("lm")
    assert service.committed("lm") == []

    service.write(service.job("lm", "restart: {max: 7}", every_steps=10, keep_last=2), head="log_level: debug\n")
    changes = service.reload()

    assert [(change["job"], change["key"], change["from"], change["to"], change["outcome"]) for change in changes] == [
        (None, "log_level", "info", "debug", "applied"),
        ("lm", "checkpoint.every_steps", "1000000", "10", "applied"),
        ("lm", "checkpoint.keep_last", "3", "2", "applied"),
        ("lm", "restart.max", "10", "7", "applied"),
    ]
    wait_for(lambda: service.jobs()["lm"]["checkpoints_committed"] >= 4, "checkpoints at the new cadence")
    assert len(service.committed("lm")) <= 3  # two, and one that retention has not come to yet
    assert service.pid("lm") == pid
    events = service.place.pawl("journal", "events", "--limit", "100").output
    assert "pawl reload: checkpoint.every_steps: 1000000 -> 10: applied" in events
    assert service.reload() == []


def test_sighup_reloads_and_the_log_says_what_came_of_it(service: Service) -> None:
    service.write(service.job("lm"))
    daemon = service.start()
    service.wait_for_step("lm", 5)

    service.write(service.job("lm", "stop: {grace: 20s}", "ranks: 2"))
    daemon.send_signal(signal.SIGHUP)
    wait_for(lambda: "SIGHUP: stop.grace: 30s -> 20s: applied" in service.place.output(), "the reload")

    assert "SIGHUP: ranks: 1 -> 2: not applied: needs a restart of pawld" in service.place.output()
    assert service.jobs()["lm"]["world_size"] == 1
    assert service.jobs()["lm"]["state"] == "running"


def test_what_a_launch_takes_waits_for_the_next_one(service: Service) -> None:
    service.write(service.job("lm", "environment: {MARK: one}"))
    service.start()
    service.wait_for_step("lm", 5)
    first = service.pid("lm")

    service.write(service.job("lm", "environment: {MARK: two}"))
    [change] = service.reload()

    assert (change["key"], change["outcome"]) == ("environment.MARK", "next launch")
    assert "two" not in json.dumps(change)
    assert b"MARK=one" in Path(f"/proc/{first}/environ").read_bytes().split(b"\0")
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: service.jobs()["lm"]["incarnation"] == 1 and service.pid("lm") > 0, "the next launch")
    assert b"MARK=two" in Path(f"/proc/{service.pid('lm')}/environ").read_bytes().split(b"\0")


def test_a_job_that_is_new_is_started_beside_those_that_run(service: Service) -> None:
    service.write(service.job("lm"))
    daemon = service.start()
    service.wait_for_step("lm", 5)
    pid = service.pid("lm")

    service.write(service.job("lm"), service.job("second"))
    [change] = service.reload()
    service.wait_for_step("second", 15)

    assert (change["what"], change["job"], change["outcome"]) == ("added", "second", "applied")
    assert service.pid("lm") == pid
    daemon.send_signal(signal.SIGTERM)
    assert service.place.end(daemon).code == 0
    assert processes_of(service.place.path) == []
    assert service.committed("second"), "drained as every job"


def test_a_job_that_is_gone_is_drained_and_may_come_back(service: Service) -> None:
    service.write(service.job("lm"), service.job("second", every_steps=1000000))
    service.start()
    service.wait_for_step("second", 15)
    pid = service.pid("lm")

    service.write(service.job("lm"))
    [change] = service.reload()
    wait_for(lambda: "second" not in service.jobs(), "the job to be gone")

    assert (change["what"], change["job"], change["outcome"]) == ("removed", "second", "applied")
    assert "removed from the configuration: asking for a last checkpoint" in service.place.output()
    assert len(service.committed("second")) == 1
    assert service.pid("lm") == pid
    assert not (service.place.state / "jobs" / "second.sock").exists()
    drained_at = int(service.committed("second")[0].rsplit("-", 1)[-1])

    service.write(service.job("lm"), service.job("second"))
    [change] = service.reload()
    service.wait_for_step("second", drained_at + 1)
    assert (change["what"], change["outcome"]) == ("added", "applied")
    assert service.jobs()["second"]["resumed_from"] is not None


def test_a_stop_of_the_daemon_lets_a_removed_job_end_its_drain(service: Service) -> None:
    service.write(service.job("lm"), service.job("second", every_steps=1000000))
    daemon = service.start()
    service.wait_for_step("second", 15)

    service.write(service.job("lm"))
    service.reload()
    daemon.send_signal(signal.SIGTERM)

    assert service.place.end(daemon).code == 0
    assert "stopping without a last checkpoint" not in service.place.output()
    assert len(service.committed("second")) == 1


def test_a_renamed_job_waits_until_the_old_one_has_left_its_directory(service: Service) -> None:
    service.write(service.job("lm"), service.job("old"))
    service.start()
    service.wait_for_step("old", 15)

    service.write(service.job("lm"), service.job("old").replace("  old:", "  new:"))
    removed, added = service.reload()
    wait_for(lambda: "old" not in service.jobs(), "the old job to be gone")
    again = service.reload()
    service.wait_for_step("new", 16)

    assert (removed["what"], removed["outcome"]) == ("removed", "applied")
    assert (added["what"], added["outcome"]) == ("added", "refused")
    assert "in use by job 'old'" in added["why"]
    assert [(change["what"], change["outcome"]) for change in again] == [("added", "applied")]
    assert service.jobs()["new"]["resumed_from"] is not None


def test_a_new_job_that_cannot_be_opened_is_refused_and_the_rest_goes_on(service: Service) -> None:
    service.write(service.job("lm"))
    service.start()
    service.wait_for_step("lm", 5)
    (service.place.path / "checkpoints" / "second").write_text("a file where a directory should be")

    service.write(service.job("lm", "stop: {grace: 20s}"), service.job("second"))
    changed, refused = service.reload()
    (service.place.path / "checkpoints" / "second").unlink()
    [added] = service.reload()
    service.wait_for_step("second", 5)

    assert (changed["key"], changed["outcome"]) == ("stop.grace", "applied")
    assert (refused["job"], refused["outcome"]) == ("second", "refused")
    assert "checkpoints/second" in refused["why"]
    assert (added["job"], added["outcome"]) == ("second", "applied")


WRONG = {
    "a typo": (lambda path: path.write_text("jobs:\n  lm:\n    comand: [x]\n"), ":3:5: unknown key 'jobs.lm.comand'"),
    "a file that is gone": (lambda path: path.unlink(), "No such file or directory"),
    "a directory": (lambda path: (path.unlink(), path.mkdir()), "not a regular file"),
    "a FIFO": (lambda path: (path.unlink(), os.mkfifo(path)), "not a regular file"),
    "half a file": (lambda path: path.write_text(path.read_text()[:-30]), "pawld.yaml:"),
    "not UTF-8": (lambda path: path.write_bytes(b"jobs: \xff\xfe"), ":1:7: expected UTF-8 text"),
    "an empty file": (lambda path: path.write_text(""), "found an empty file"),
    "a variable that is not set": (
        lambda path: path.write_text(path.read_text() + "    working_directory: ${NOT_SET_ANYWHERE}\n"),
        "the variable 'NOT_SET_ANYWHERE' is not set",
    ),
}


def test_a_file_that_is_wrong_changes_nothing_and_says_where(service: Service) -> None:
    service.write(service.job("lm"))
    daemon = service.start()
    service.wait_for_step("lm", 5)
    pid = service.pid("lm")

    for what, (spoil, message) in WRONG.items():
        service.write(service.job("lm", "stop: {grace: 20s}"))
        spoil(service.path)
        reloaded = service.place.pawl("reload")
        if service.path.is_dir():
            service.path.rmdir()

        assert reloaded.code == 78, f"{what}: {reloaded.output}"
        assert message in reloaded.output, what
        assert "Nothing has changed." in reloaded.output, what
    said = service.place.output().count("SIGHUP: not reloaded")
    service.path.unlink(missing_ok=True)
    daemon.send_signal(signal.SIGHUP)
    wait_for(lambda: service.place.output().count("SIGHUP: not reloaded") > said, "the log of a reload by SIGHUP")

    assert service.pid("lm") == pid
    service.write(service.job("lm"))
    assert service.reload() == []


def test_jobs_of_included_files_come_and_go_with_their_files(service: Service) -> None:
    (service.place.path / "jobs.d").mkdir()
    service.path.write_text(
        "state_directory: .pawl\ninclude: jobs.d/*.yaml\n"
        "defaults:\n"
        f"  command: [{TRAINER}, --epochs, 10000, --train-samples, 3200, --test-samples, 64]\n"
        "  checkpoint: {directory: 'checkpoints/${PAWL_JOB}', every_steps: 10}\n"
    )
    daemon = service.start()
    assert service.jobs() == {}

    (service.place.path / "jobs.d" / "a.yaml").write_text("jobs:\n  a: {}\n")
    text = service.place.pawl("reload")
    service.wait_for_step("a", 15)
    (service.place.path / "jobs.d" / "a.yaml").unlink()
    [removed] = service.reload()
    wait_for(lambda: service.jobs() == {}, "the job to be gone")

    assert text.output == "job 'a': added\n"
    assert removed["what"] == "removed"
    assert daemon.poll() is None
    daemon.send_signal(signal.SIGTERM)
    assert service.place.end(daemon).code == 0


def test_systemd_is_told_of_a_reload_from_its_begin_to_its_end(service: Service) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(service.place.path / "notify"))
    listener.settimeout(0.2)
    told: list[str] = []

    def told_of(word: str, after: int) -> int:
        with contextlib.suppress(TimeoutError):
            told.append(listener.recv(65536).decode())
        return next((i for i in range(after, len(told)) if word in told[i].splitlines()), -1) + 1

    service.write(service.job("lm"))
    daemon = service.start(environment={"NOTIFY_SOCKET": str(service.place.path / "notify")})
    ready = wait_for(lambda: told_of("READY=1", 0), "READY")
    for spoiled in (False, True):
        if spoiled:
            service.path.unlink()
        daemon.send_signal(signal.SIGHUP)
        reloading = wait_for(lambda: told_of("RELOADING=1", ready), "RELOADING")
        ready = wait_for(lambda: told_of("READY=1", reloading), "READY after the reload")

        stamp = dict(line.split("=", 1) for line in told[reloading - 1].splitlines())["MONOTONIC_USEC"]
        assert stamp.isdigit()


def test_pawl_run_has_nothing_to_reload(place: Place) -> None:
    daemon = place.start(place.trainer())
    place.wait_for_step(1, daemon)

    reloaded = place.pawl("reload")

    assert reloaded.code == 69, reloaded.output
    assert "has no configuration file" in reloaded.output
    assert place.end(daemon).code == 0


def test_many_reloads_at_once_are_made_one_after_the_other(service: Service) -> None:
    service.write(service.job("lm"))
    daemon = service.start()
    service.wait_for_step("lm", 5)
    pid = service.pid("lm")

    for i in range(30):
        service.write(service.job("lm"), *([service.job("second")] if i % 2 else []))
        daemon.send_signal(signal.SIGHUP)
    service.write(service.job("lm"))
    wait_for(lambda: daemon.poll() is not None or service.place.pawl("reload").code == 0, "the last reload")
    assert daemon.poll() is None, service.place.output()
    # Added and removed within a millisecond, it may be stopped before it has ranks: nobody waits for them.
    wait_for(lambda: list(service.jobs()) == ["lm"], "the jobs to be as in the file", deadline_s=20)
    assert "ranks that did not leave in time" not in service.place.output()

    assert service.pid("lm") == pid
