"""Real processes, killed for real: what the stories in this folder are told with."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

# Many trainers on few cores: threads that wait for each other would take the time of the others.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(os.environ.get("PAWL_BIN", ROOT / "build" / "bin")).resolve()
# Of another build than the trainers: the daemon under ThreadSanitizer, say.
DAEMON_BIN = Path(os.environ.get("PAWL_DAEMON_BIN", BIN)).resolve()
PAWL = str(DAEMON_BIN / "pawl")
PAWLD = str(DAEMON_BIN / "pawld")
TRAINER = str(BIN / "fashion_mnist")

# Two epochs of 50 steps: enough to be killed in, over in two seconds.
SMALL = ["--epochs", "2", "--train-samples", "3200", "--test-samples", "500"]
LAST_STEP = 100
DEADLINE_S = 60.0


def a_seed() -> int:
    """Of everything random. Printed; PAWL_TEST_SEED=… repeats it."""
    seed = int(os.environ.get("PAWL_TEST_SEED", random.randrange(1 << 32)))
    print(f"repeat it with PAWL_TEST_SEED={seed}")
    return seed


def wait_for(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S, interval_s: float = 0.01) -> Any:
    """Returns the first true value of `condition`; fails when the deadline has passed."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(interval_s)
    pytest.fail(f"waited {deadline_s:.0f} s for {what}")


def processes_of(place: Path) -> list[int]:
    """Live processes of a job whose state is below `place`."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(v.startswith(b"PAWL_JOB_KEY=" + str(place).encode()) for v in environment):
            found.append(int(entry.name))
    return found


def read_losses(path: Path) -> dict[int, str]:
    """The loss of each step, as bits. A step that was computed again must have given the same."""
    losses: dict[int, str] = {}
    for line in path.read_text().splitlines():
        step, bits, _ = line.split()
        assert losses.setdefault(int(step), bits) == bits, f"step {step} was computed twice, differently"
    return losses


class Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("pawl", timeout=30)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(str(self.path))


@dataclass
class Ended:
    code: int
    output: str


@dataclass
class Place:
    """A working directory in which `pawl run` is started, killed and started again."""

    path: Path
    running: list[subprocess.Popen[str]] = field(default_factory=list)
    logs: int = 0

    @property
    def state(self) -> Path:
        return self.path / ".pawl"

    @property
    def checkpoints(self) -> Path:
        return self.state / "checkpoints"

    def trainer(self, *extra: str) -> list[str]:
        return [TRAINER, *SMALL, "--losses", str(self.path / "losses"), "--weights", str(self.path / "weights"), *extra]

    def start(
        self,
        command: list[str] | None = None,
        options: list[str] | None = None,
        environment: dict[str, str] | None = None,
        program: list[str] | None = None,
    ) -> subprocess.Popen[str]:
        self.logs += 1
        log = (self.path / f"log-{self.logs}").open("w")
        line = program or [PAWL, "run", "--every-steps", "10", *(options or []), "--", *(command or self.trainer())]
        process = subprocess.Popen(
            line,
            cwd=self.path,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(environment or {})},
            text=True,
        )
        log.close()
        self.running.append(process)
        return process

    def output(self) -> str:
        """What the newest daemon has said."""
        return (self.path / f"log-{self.logs}").read_text()

    def kill_what_runs(self) -> None:
        for process in self.running:
            if process.poll() is None:
                process.kill()
            process.wait()

    def end(self, process: subprocess.Popen[str], deadline_s: float = DEADLINE_S) -> Ended:
        try:
            code = process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it did not end within {deadline_s:.0f} s; it said:\n{self.output()}")
        return Ended(code, self.output())

    def run(self, command: list[str] | None = None, options: list[str] | None = None, **more: Any) -> Ended:
        return self.end(self.start(command, options, **more))

    def pawl(self, *words: str) -> Ended:
        done = subprocess.run(
            [PAWL, *words], cwd=self.path, capture_output=True, text=True, check=False, timeout=DEADLINE_S
        )
        return Ended(done.returncode, done.stdout + done.stderr)

    def json(self, *words: str) -> Any:
        """What it prints as JSON; of the journal the records, without the cursor around them."""
        done = self.pawl(*words, "--json")
        answer = json.loads(done.output)
        return answer["records"] if words[0] == "journal" else answer

    def job(self) -> dict[str, Any] | None:
        """The job's status, or None while no daemon answers.

        As `pawl status --json` says it, but without a process: it is asked for often, beside what needs the cores.
        """
        connection = Connection(self.state / "pawld.sock")
        try:
            connection.request("GET", "/v1/status")
            jobs = json.loads(connection.getresponse().read())["jobs"]
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        return dict(jobs[0]) if jobs else None

    def wait_for_step(self, step: int, process: subprocess.Popen[str]) -> dict[str, Any]:
        def reached() -> dict[str, Any] | None:
            assert process.poll() is None, f"the daemon has ended:\n{self.output()}"
            job = self.job()
            runs = job and job["ranks"] and all(rank["pid"] for rank in job["ranks"])
            return job if job and runs and job["step"] >= step else None

        return dict(wait_for(reached, f"step {step}"))

    def newest(self) -> Path:
        return self.checkpoints / (self.checkpoints / "latest").readlink()

    def committed(self) -> list[str]:
        return sorted(p.name for p in self.checkpoints.iterdir() if p.is_dir() and p.name[0].isdigit())

    def manifests(self) -> list[dict[str, Any]]:
        return [json.loads((self.checkpoints / name / "manifest.json").read_text()) for name in self.committed()]

    def assert_equal_to(self, reference: Reference) -> None:
        """Losses of all steps and final weights are those of the run that was left alone."""
        assert read_losses(self.path / "losses") == reference.losses
        assert (self.path / "weights").read_bytes() == reference.weights

    def assert_ended_with_the_file_of(self, reference: Reference) -> None:
        """The last checkpoint's file is that of the run that was left alone, to the byte: optimizer, RNG and all."""
        assert (self.newest() / "rank-00000.pt").read_bytes() == reference.file

    def alone(self, command: list[str]) -> list[str]:
        """The command, holding a lock from its first to its last moment: two at once leave a trace."""
        script = 'exec 9>>lock; flock --nonblock 9 || echo "incarnation $PAWL_INCARNATION" >>overlaps; exec "$@"'
        return ["sh", "-c", script, "alone", *command]

    def assert_never_two_at_once(self) -> None:
        overlaps = self.path / "overlaps"
        assert (self.path / "lock").exists()
        assert not overlaps.exists(), f"started while another was running: {overlaps.read_text()}"


@dataclass(frozen=True)
class Reference:
    losses: dict[int, str]
    weights: bytes
    file: bytes  # the rank's, in the last checkpoint


def undisturbed(place: Place, command: list[str], steps: int) -> Reference:
    ended = place.run(command)
    assert ended.code == 0, ended.output
    losses = read_losses(place.path / "losses")
    assert sorted(losses) == list(range(steps))
    return Reference(
        losses=losses,
        weights=(place.path / "weights").read_bytes(),
        file=(place.newest() / "rank-00000.pt").read_bytes(),
    )


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """A run that nobody disturbs."""
    place = Place(tmp_path_factory.mktemp("reference"))
    return undisturbed(place, place.trainer(), LAST_STEP)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A fresh place; at the end no process of it may be left."""
    here = Place(tmp_path)
    yield here
    here.kill_what_runs()
    left = processes_of(tmp_path)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    # Seen where the test fails: pytest shows what was printed.
    for log in range(1, here.logs + 1):
        print(f"---- program {log} said:\n{(tmp_path / f'log-{log}').read_text()}")
    assert not left, f"processes {left} were left behind"


@pytest.fixture
def small_disk(place: Place, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A tmpfs of DISK_SIZE of the test's module."""
    path = place.path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={request.module.DISK_SIZE}", "tmpfs", str(path)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip("no tmpfs can be mounted here")
    yield path
    place.kill_what_runs()  # of a test that failed: what runs there would keep the disk busy
    subprocess.run(["umount", str(path)], check=True)


@pytest.fixture
def memory_limit(place: Place) -> Iterator[Callable[[int], list[str]]]:
    """Makes a real cgroup with a limit in bytes; what is returned goes before a command that is to run in it."""
    made: list[Path] = []

    def in_cgroup(bytes_max: int) -> list[str]:
        unified = Path("/sys/fs/cgroup")
        delegated = unified / "cgroup.subtree_control"
        is_v2 = delegated.exists() and "memory" in delegated.read_text()
        parent = unified if is_v2 else unified / "memory"
        group = parent / f"pawl-test-{os.getpid()}-{len(made)}"
        try:
            group.mkdir()
            (group / ("memory.max" if is_v2 else "memory.limit_in_bytes")).write_text(str(bytes_max))
        except OSError as error:
            pytest.skip(f"no cgroup with a memory limit can be made here: {error}")
        made.append(group)
        # Else what is over the limit goes there, and nobody is killed.
        swap = group / ("memory.swap.max" if is_v2 else "memory.memsw.limit_in_bytes")
        if swap.exists():
            swap.write_text("0" if is_v2 else str(bytes_max))
        return ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "limited"]

    yield in_cgroup
    place.kill_what_runs()
    for group in made:
        for pid in (group / "cgroup.procs").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        wait_for(lambda group=group: not (group / "cgroup.procs").read_text(), "an empty cgroup")
        group.rmdir()


def crash_in_first_incarnation(point: str, command: list[str]) -> list[str]:
    """The command, killing itself at a named crash point the first time it is launched."""
    script = f'if [ "$PAWL_INCARNATION" = 0 ]; then export PAWL_CRASH_POINT="{point}"; fi; exec "$@"'
    return ["sh", "-c", script, "trainer", *command]
