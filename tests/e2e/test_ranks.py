"""Ranks that lie, stall, talk rubbish or die in the middle of a snapshot: the daemon and all that is valid outlive them.

Each rank is a process that speaks the trainer protocol by hand (rank_protocol.py), honest but for what a test is about.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import BIN, PAWL, PAWLD, Place, processes_of, wait_for

RANK = [sys.executable, str(Path(__file__).with_name("rank_protocol.py"))]
HONEST = "rank.attach(); rank.train(until=40); rank.finish()"


def by_rank(*scripts: str, later: str = HONEST) -> list[str]:
    """A command whose ranks do what the scripts say in incarnation 0, and are honest from then on."""
    text = "\n".join(
        f"if rank.incarnation == 0 and rank.number == {number}:\n{textwrap.indent(textwrap.dedent(script), '    ')}"
        for number, script in enumerate(scripts)
    )
    return [*RANK, f"{text}\nif rank.incarnation > 0:\n    {later}"]


def serve(place: Place, command: list[str], ranks: int = 2, **limits: str) -> subprocess.Popen[str]:
    """pawld with one job, and time limits that a test can wait for."""
    job = {
        "command": command,
        "working_directory": str(place.path),
        "ranks": ranks,
        "checkpoint": {
            "directory": str(place.checkpoints),
            "every_steps": 10,
            "keep_last": 100,
            "attempt_timeout": limits.get("attempt_timeout", "60s"),
        },
        "start": {"attach_timeout": limits.get("attach_timeout", "60s")},
    }
    config = place.path / "pawld.yaml"
    config.write_text(json.dumps({"state_directory": str(place.state), "jobs": {"run": job}}))
    return place.start(program=[PAWLD, "--config", str(config)])


def wait_until_finished(place: Place, daemon: subprocess.Popen[str]) -> dict[str, Any]:
    def finished() -> dict[str, Any] | None:
        assert daemon.poll() is None, f"the daemon has ended:\n{place.output()}"
        job = place.job()
        assert not job or job["state"] not in ("failed", "stopped"), job
        return job if job and job["state"] == "finished" else None

    job = dict(wait_for(finished, "the end of the job"))
    daemon.send_signal(signal.SIGTERM)
    assert place.end(daemon).code == 0
    return job


def said(place: Place, rank: int, incarnation: int = 0) -> str:
    path = place.path / f"said-{rank}-{incarnation}"
    return path.read_text() if path.exists() else ""


def assert_all_valid(place: Place) -> None:
    verified = place.pawl("checkpoints", "verify")
    assert verified.code == 0, verified.output


# ---- ranks that do not come to a snapshot ----


def test_a_rank_that_hangs_in_a_snapshot_costs_that_attempt_and_the_next_is_made(place: Place) -> None:
    hangs = """
        rank.attach()
        rank.train(until=9)
        rank.say("hangs")
        while not Path("go").exists():
            time.sleep(0.01)
        rank.train(until=10**6, pause=0)
    """
    daemon = serve(place, by_rank("rank.attach(); rank.train(until=10**6)", hangs), attempt_timeout="2s")
    attempt = wait_for(lambda: (job := place.job()) and job["attempt"], "rank 0's snapshot")
    wait_for(lambda: "took no snapshot within" in place.output(), "the attempt to be given up")

    # Rank 0 is far ahead by now: while rank 1 catches up, it is waited for.
    (place.path / "go").touch()
    wait_for(lambda: place.committed(), "a checkpoint of both")
    job = place.job()
    daemon.send_signal(signal.SIGTERM)
    assert place.end(daemon).code == 0

    assert attempt == {"epoch": None, "missing": [1], "reason": "cadence", "request": 1, "step": 10}
    assert "rank 1 (at step 9 of epoch 0, training, last heard of 2" in place.output()
    assert "1 of 2 ranks had sealed theirs. Training goes on; the next is made as planned" in place.output()
    assert "a checkpoint waits for rank 1" in place.output()
    assert job and job["restarts"] == 0 and job["attempts_failed"] == 1 and job["attempts_started"] >= 2
    assert_all_valid(place)


def test_a_rank_that_dies_in_the_middle_of_a_snapshot_leaves_the_one_before(place: Place) -> None:
    dies = """
        rank.attach()
        rank.train(until=19)
        rank.step = 20
        rank.arena(1)
        rank.arenas[1][:100] = bytes(100)
        wait_for_rank_0 = [time.sleep(0.01) for _ in iter(lambda: Path("sealed").exists(), True)]
        os.kill(os.getpid(), 9)
    """
    seals = "rank.attach(); rank.train(until=20); Path('sealed').touch(); rank.train(until=10**6)"
    ended = place.run(by_rank(seals, dies), ["--ranks", "2"])

    assert ended.code == 0, ended.output
    assert "rank 1 was killed by SIGKILL (9)" in ended.output
    assert "attached at step 10" in said(place, 0, 1)
    assert "attached at step 10" in said(place, 1, 1)
    assert [name.split("-step-")[1] for name in place.committed()[-3:]] == ["20", "30", "40"]
    assert_all_valid(place)


def test_a_rank_that_never_finishes_is_named_and_all_are_restarted(place: Place) -> None:
    command = by_rank(HONEST, "rank.attach(); rank.train(until=20); signal = __import__('signal'); signal.pause()")
    daemon = serve(place, command, attempt_timeout="1s")

    job = wait_until_finished(place, daemon)

    assert "1 of 2 ranks have finished and wait for rank 1 (at step 20 of epoch 0, training" in place.output()
    assert job["restarts"] == 1
    assert "finished at step 40" in said(place, 1, 1)
    assert_all_valid(place)


def test_a_rank_that_leaves_before_the_end_lets_nobody_wait_for_ever(place: Place) -> None:
    # It ends well, but without a final snapshot there is no final checkpoint.
    command = by_rank("rank.attach(); rank.train(until=35); rank.finish()", "rank.attach(); rank.train(until=35)")

    ended = place.run(command, ["--ranks", "2"])

    assert ended.code == 0, ended.output
    assert "no final checkpoint: rank 1 took no snapshot: its connection is gone" in said(place, 0)
    assert "finished at step 40" in said(place, 0, 1)


# ---- ranks that do not attach, or as somebody else ----


def test_a_rank_that_never_attaches_is_named_and_all_are_restarted(place: Place) -> None:
    command = by_rank("rank.attach(); rank.train(until=10**6)", "__import__('signal').pause()")
    daemon = serve(place, command, attach_timeout="1s")

    job = wait_until_finished(place, daemon)

    assert "rank 1 did not attach within 1.0s of the first that did (1 of 2 are attached)" in place.output()
    assert job["restarts"] == 1
    assert_all_valid(place)


def test_a_command_that_has_no_client_is_never_waited_for(place: Place) -> None:
    daemon = serve(place, ["sh", "-c", "sleep 2; echo done > done-$RANK"], attach_timeout="1s", attempt_timeout="1s")

    job = wait_until_finished(place, daemon)

    assert job["restarts"] == 0
    assert (place.path / "done-0").exists() and (place.path / "done-1").exists()


LIES = {
    "a rank out of range": ("rank=7", "the job has ranks 0 to 1"),
    "a huge rank": ("rank=2**63", "not a message of the trainer protocol"),
    "another's rank": ("rank=0", "belongs to rank 1"),
    "another incarnation": ("incarnation=9", "incarnation 9 is not running"),
    "another world size": ("world_size=3", "it takes the world size for 3, the job has 2 ranks"),
    "a newer protocol": ("protocol=2", "it speaks protocol 2, this pawld 1"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_rank_that_lies_at_attach_is_refused_and_costs_nobody_anything(place: Place, lie: str) -> None:
    words, message = LIES[lie]
    liar = f"""
        rank.connect()
        rank.hello({words})
        refused = rank.receive()
        rank.say(refused["why"] if refused else "hung up on")
        assert rank.receive() is None
        {HONEST}
    """

    ended = place.run(by_rank(HONEST, liar), ["--ranks", "2"])

    assert ended.code == 0, ended.output
    assert message in ended.output
    assert "restarting" not in ended.output
    assert message in said(place, 1) or "hung up on" in said(place, 1)
    assert_all_valid(place)


def test_a_rank_attaches_once(place: Place) -> None:
    twice = f"""
        rank.attach()
        first = rank.socket
        rank.connect()
        rank.hello()
        rank.say(rank.receive()["why"])
        rank.socket = first
        {HONEST.replace("rank.attach(); ", "")}
    """

    ended = place.run(by_rank(HONEST, twice), ["--ranks", "2"])

    assert ended.code == 0, ended.output
    assert "this rank is attached already" in said(place, 1)
    assert "restarting" not in ended.output


def test_only_a_process_of_the_job_may_attach(place: Place) -> None:
    waits = "while not Path('go').exists():\n    time.sleep(0.01)"
    daemon = place.start([*RANK, waits])
    wait_for(lambda: (job := place.job()) and job["ranks"] and job["ranks"][0]["pid"], "the rank")
    key = {"PAWL_JOB_KEY": f"{place.state}:run"}

    def attach(environment: dict[str, str]) -> str:
        given = {**os.environ, "PAWL_SOCKET": str(place.state / "jobs" / "run.sock"), **environment}
        script = "rank.connect(); rank.hello(); print(rank.receive())"
        done = subprocess.run([*RANK, script], env=given, cwd=place.path, capture_output=True, text=True, check=True)
        return done.stdout

    stranger = attach({})
    relative = attach(key)
    (place.path / "go").touch()

    assert "is none of this job's: no rank started it" in stranger
    assert "Welcome" in relative, "a process that left its rank's family is known by the job's key"
    assert place.end(daemon).code == 0


# ---- rubbish ----

MESSAGES: dict[str, bytes] = {
    "no text": b"\xff\xfe\x00 rubbish",
    "no object": b"[1, 2]",
    "no type": b"{}",
    "an unknown type": b'{"type": "Please"}',
    "a field of another type": b'{"type": "Hello", "protocol": "1", "rank": 0, "incarnation": 0}',
    "a negative count": b'{"type": "ArenaRequest", "slot": -1, "bytes": 10}',
    "a step beyond counting": b'{"type":"EpochEnded","step":9223372036854775808,"epoch":0,"loss":1,"metrics":{}}',
    "brackets": b"[" * 60_000,
    "too much": b" " * 70_000,
}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_stranger_that_talks_rubbish_is_hung_up_on(place: Place, name: str) -> None:
    daemon = place.start([*RANK, HONEST.replace("40", "200")], ["--ranks", "2"])
    place.wait_for_step(5, daemon)

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
        stranger.settimeout(20)
        stranger.connect(str(place.state / "jobs" / "run.sock"))
        stranger.send(MESSAGES[name])
        answer = stranger.recv(1000)

    ended = place.end(daemon)
    assert answer == b"", "it was hung up on"
    assert ended.code == 0, ended.output
    assert f"process {os.getpid()}, which is no attached rank, was hung up on: " in ended.output
    assert "restarting" not in ended.output


def test_thousands_of_strangers_keep_no_rank_out_and_do_not_fill_the_journal(place: Place) -> None:
    late = "while not Path('go').exists():\n    time.sleep(0.01)\nrank.attach(); rank.train(until=40); rank.finish()"
    daemon = place.start([*RANK, late])
    path = str(place.state / "jobs" / "run.sock")
    wait_for(lambda: place.job(), "the daemon")
    held = []
    for _ in range(3_000):
        stranger = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stranger.connect(path)
        held.append(stranger)

    (place.path / "go").touch()
    ended = place.end(daemon)
    for stranger in held:
        stranger.close()

    assert ended.code == 0, ended.output
    assert "finished at step 40" in said(place, 0)
    assert ended.output.count("was hung up on") <= 10


def broken(after: str) -> str:
    """Rank 1 is honest up to a checkpoint of step 10, then does what `after` says until it is hung up on."""
    return f"""
        rank.attach()
        rank.train(until=10)
        while rank.wait_for("SnapshotDurable")["step"] != 10:
            pass
        {after}
        while rank.receive() is not None:
            pass
        rank.say("hung up on")
        __import__("signal").pause()
    """


BREAKS = {
    "rubbish": ("rank.socket.send(b'rubbish')", "not a message of the trainer protocol"),
    "a message that is too long": ("rank.socket.send(b' ' * 70000)", "longer than 65536 bytes"),
    "a message of wrong types": (
        "rank.send('ArenaRequest', slot='0', bytes=1)",
        "not a message of the trainer protocol",
    ),
    "descriptors": (
        "socket.send_fds(rank.socket, [b'{}'], [0, 1])",
        "it sent descriptors, which no message of a rank has",
    ),
    "more descriptors than anybody takes": (
        "socket.send_fds(rank.socket, [b'{}'], [0] * 100)",
        "more than 4 descriptors",
    ),
    "a slot that does not exist": (
        "rank.send('SnapshotSealed', request=2, slot=7, bytes=1, step=20, epoch=0, metrics={})",
        "sealed 1 bytes in slot 7",
    ),
    "a slot without an arena": (
        "rank.send('SnapshotSealed', request=2, slot=1, bytes=1, step=20, epoch=0, metrics={})",
        "sealed 1 bytes in slot 1",
    ),
    "more bytes than the arena has": (
        "rank.send('SnapshotSealed', request=2, slot=0, bytes=2**40, step=20, epoch=0, metrics={})",
        "sealed 1099511627776 bytes in slot 0",
    ),
    "a slot that is sealed already": (
        "[rank.send('SnapshotSealed', request=2, slot=0, bytes=100, step=20, epoch=0, metrics={}) for _ in range(2)]",
        "sealed 100 bytes in slot 0",
    ),
    "two requests for one arena": (
        "[rank.send('ArenaRequest', slot=1, bytes=2**28) for _ in range(2)]",
        "asked for an arena in slot 1 while one was being made",
    ),
    "a step beyond counting": (
        "rank.send('EpochEnded', step=2**63, epoch=0, loss=None, metrics={})",
        "not a message of the trainer protocol",
    ),
    "a page beyond counting": ("rank.write_page(2**63)", "its page says step 9223372036854775808"),
    "a second hello": ("rank.hello()", "it said hello twice"),
    "thousands of messages": (
        "import contextlib\n"
        "        with contextlib.suppress(OSError):\n"
        "            while True:\n"
        "                rank.send('SnapshotPassed', request=10**6, step=1)",
        "it sent more than 10000 messages in 10 s",
    ),
    # Each refusal is answered, and the answers are not read.
    "not reading": (
        "import contextlib\n"
        "        with contextlib.suppress(OSError):\n"
        "            while True:\n"
        "                while rank.asked()[0] == rank.answered:\n"
        "                    pass\n"
        "                rank.answered = rank.asked()[0]\n"
        "                rank.send('SnapshotSkipped', request=rank.answered, why='no')",
        "it has stopped reading",
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_an_attached_rank_that_breaks_the_protocol_is_named_and_all_are_restarted(place: Place, name: str) -> None:
    what, message = BREAKS[name]
    waits = "rank.attach(); rank.train(until=10**6)"

    ended = place.run(by_rank(waits, broken(what)), ["--ranks", "2"])

    assert ended.code == 0, ended.output
    assert message in ended.output
    assert ended.output.count("restarting") == 1, ended.output
    assert "finished at step 40" in said(place, 0, 1)
    assert "attached at step 10" in said(place, 0, 1), "what was durable is what it resumes from"
    assert ended.output.count("no checkpoint was made") <= 30, "an event for each would fill the journal"
    assert_all_valid(place)


def test_a_rank_whose_steps_go_backwards_ends_attempts_and_nothing_else(place: Place) -> None:
    back = """
        rank.attach()
        rank.train(until=15)
        rank.write_page(3)
        rank.train(until=19)
        rank.step = 3
        rank.write_page(20)
        rank.seal(rank.asked()[0])
        rank.step = 20
        rank.train(until=40)
        rank.finish()
    """

    ended = place.run(by_rank(HONEST.replace("40", "40, pause=0.02"), back), ["--ranks", "2"])

    assert ended.code == 0, ended.output
    assert "rank 1 took its snapshot at step 3 of epoch 0, asked for was step " in ended.output
    assert "restarting" not in ended.output
    assert place.committed()[-1].endswith("-step-40")
    assert_all_valid(place)


def test_what_comes_late_from_an_old_incarnation_changes_nothing(place: Place) -> None:
    # The connection of incarnation 0 outlives it, in a process that nobody knows to be of the job.
    keeper = """
        import socket, sys, time
        from pathlib import Path
        connection = socket.socket(fileno=int(sys.argv[1]))
        while not Path("attached").exists():
            time.sleep(0.01)
        try:
            connection.send(b'{"type":"Finishing","step":7,"epoch":0}')
            connection.send(b'{"type":"SnapshotPassed","request":1,"step":1000000}')
        except OSError:
            pass
        Path("late").write_text(repr(connection.recv(1000)))
    """
    leaves = f"""
        rank.attach()
        rank.train(until=15)
        rank.socket.set_inheritable(True)
        import subprocess
        keeper = __import__("textwrap").dedent({keeper!r})
        subprocess.Popen([sys.executable, "-c", keeper, str(rank.socket.fileno())], env={{}}, close_fds=False,
                         start_new_session=True)
        os.kill(os.getpid(), 9)
    """
    later = "rank.attach(); Path('attached').touch(); rank.train(until=400); rank.finish()"

    ended = place.run(by_rank(leaves, later=later))

    assert ended.code == 0, ended.output
    wait_for(lambda: (place.path / "late").exists() and (place.path / "late").read_text(), "the late word")
    assert (place.path / "late").read_text() == "b''", "it was hung up on"
    assert "finished at step 400" in said(place, 0, 1)


# ---- memory ----


def test_an_arena_that_does_not_fit_costs_that_snapshot_and_nobody_is_killed(place: Place) -> None:
    greedy = f"""
        rank.attach()
        for size in (2**50, 2**64 - 1, 0):
            rank.send("ArenaRequest", slot=1, bytes=size)
            rank.say(rank.wait_for("ArenaRefused")["why"])
        {HONEST.replace("rank.attach(); ", "")}
    """

    ended = place.run(by_rank(HONEST, greedy), ["--ranks", "2"])

    assert ended.code == 0, ended.output
    assert "rank 1 gets no memory for a snapshot: an arena of 1.0 PiB does not fit" in ended.output
    assert "Training goes on" in ended.output
    assert "restarting" not in ended.output
    assert "an arena of no bytes" in said(place, 1)
    assert_all_valid(place)


def test_a_limit_on_file_sizes_is_an_error_of_the_arena_and_not_the_end_of_the_daemon(place: Place) -> None:
    large = f"""
        rank.attach()
        rank.send("ArenaRequest", slot=1, bytes=64 << 20)
        rank.say(rank.wait_for("ArenaRefused")["why"])
        {HONEST.replace("rank.attach(); ", "")}
    """
    command = by_rank(large)
    limited = ["prlimit", f"--fsize={32 << 20}", PAWL, "run", "--every-steps", "10", "--", *command]

    ended = place.run(program=limited)

    assert ended.code == 0, ended.output
    assert "File too large" in said(place, 0)
    assert_all_valid(place)


def test_an_arena_beyond_the_limit_of_a_real_cgroup_is_refused_by_its_name(
    place: Place, memory_limit: Callable[[int], list[str]]
) -> None:
    greedy = f"""
        rank.attach()
        rank.send("ArenaRequest", slot=1, bytes=1 << 30)
        rank.say(rank.wait_for("ArenaRefused")["why"])
        {HONEST.replace("rank.attach(); ", "")}
    """
    limited = [*memory_limit(512 << 20), PAWL, "run", "--every-steps", "10", "--", *by_rank(greedy)]

    ended = place.run(program=limited)

    assert ended.code == 0, ended.output
    assert re.search(r"an arena of 1\.0 GiB does not fit: cgroup '/pawl-test-\S+' has \d", said(place, 0))
    assert "Training goes on" in ended.output
    assert_all_valid(place)


def test_a_memory_limit_that_is_hit_while_a_snapshot_is_taken_costs_that_snapshot(
    place: Place, memory_limit: Callable[[int], list[str]]
) -> None:
    grows = """
        rank.attach()
        rank.train(until=29)
        rank.step = 30
        rank.arena(1)
        rank.arenas[1][:100] = bytes(100)
        rank.say("grows")
        hoard = [bytearray(1 << 20) for _ in range(4096)]
        rank.say("was not stopped")
    """
    limited = [*memory_limit(512 << 20), PAWL, "run", "--every-steps", "10", "--", *by_rank(grows)]

    ended = place.run(program=limited)

    assert ended.code == 0, ended.output
    assert said(place, 0).splitlines()[-1] == "grows"
    assert "rank 0 was killed by SIGKILL (9)" in ended.output, "the kernel's OOM killer takes the largest"
    assert "attached at step 20" in said(place, 0, 1)
    assert "finished at step 40" in said(place, 0, 1)
    assert_all_valid(place)


def arena_bytes(place: Place) -> int:
    job = place.job()
    return int(job["arena_bytes"]) if job else 0


def test_arenas_are_there_before_they_are_needed(place: Place) -> None:
    first = """
        rank.attach()
        rank.train(until=10)
        Path("sealed").touch()
        while not Path("killed").exists():
            time.sleep(0.01)
        sys.exit(1)
    """
    waits = 'Path("started").touch()\n    while not Path("go").exists(): time.sleep(0.01)\n    ' + HONEST
    daemon = place.start(by_rank(first, first, later=waits), ["--ranks", "2"])
    wait_for(lambda: (place.path / "sealed").exists() and len(place.committed()) == 1, "the first checkpoint")
    of_both = 2 * (place.newest() / "rank-00000.pt").stat().st_size
    # Each rank has asked for one; the other is there for the next snapshot.
    wait_for(lambda: arena_bytes(place) >= 2 * of_both + 4 * (64 << 10), "two arenas a rank")

    (place.path / "killed").touch()
    wait_for(lambda: (place.path / "started").exists(), "the next incarnation")
    wait_for(lambda: of_both <= arena_bytes(place) < 2 * of_both + 4 * (64 << 10), "one arena a rank, not yet asked for")
    job = place.job()
    (place.path / "go").touch()
    ended = place.end(daemon)

    assert ended.code == 0, ended.output
    assert job and job["incarnation"] == 1 and not any(rank["attached"] for rank in job["ranks"]), job
    assert "attached at step 10" in said(place, 0, 1)
    assert "finished at step 40" in said(place, 1, 1)
    assert_all_valid(place)


def test_an_arena_that_was_made_ahead_and_is_too_small_is_made_anew(place: Place) -> None:
    grows = """
        rank.attach()
        rank.train(until=12)
        rank.arena(1, 1 << 24)
        rank.train(until=40)
        rank.finish()
    """
    outgrown = f"""rank.attach(); rank.arena(0, 1 << 24); {HONEST.replace("rank.attach(); ", "")}"""

    grown = place.run(by_rank(grows))
    resumed = place.run([*RANK, outgrown.replace("until=40", "until=60")])

    assert grown.code == 0, grown.output
    assert resumed.code == 0, resumed.output
    assert "attached at step 40" in said(place, 0) or "attached at step 40" in said(place, 0, 1)
    assert place.committed()[-1].endswith("-step-60")
    assert_all_valid(place)


# ---- a stray write ----

STRAY = """
    import ctypes, os, sys, time
    sys.path.insert(0, {folder!r})
    from rank_protocol import image

    pawl = ctypes.CDLL({library!r})

    class Progress(ctypes.Structure):
        _fields_ = [("size", ctypes.c_size_t), ("step", ctypes.c_uint64), ("epoch", ctypes.c_uint64),
                    ("loss", ctypes.c_double)]

    class Resume(ctypes.Structure):
        _fields_ = [("size", ctypes.c_size_t), ("image", ctypes.c_void_p), ("bytes", ctypes.c_uint64),
                    ("sequence", ctypes.c_uint64), ("step", ctypes.c_uint64), ("epoch", ctypes.c_uint64)]

    run = ctypes.c_void_p()
    assert pawl.pawl_attach(None, ctypes.byref(run)) == 0
    resume = Resume(size=ctypes.sizeof(Resume))
    assert pawl.pawl_get_resume(run, ctypes.byref(resume)) == 0
    print("resumed at step", resume.step, flush=True)

    def snapshot(step):
        data = image(step, 0)
        place = ctypes.c_void_p()
        assert pawl.pawl_snapshot_begin(run, ctypes.c_uint64(len(data)), ctypes.byref(place)) == 0
        ctypes.memmove(place, data, len(data))
        assert pawl.pawl_snapshot_seal(run, None, ctypes.c_size_t(0)) == 0
        return place

    actions = ctypes.c_uint32()
    for step in range(resume.step + 1, 61):
        time.sleep(0.01)
        progress = Progress(size=ctypes.sizeof(Progress), step=step, epoch=0, loss=0.5)
        assert pawl.pawl_step(run, ctypes.byref(progress), ctypes.byref(actions)) == 0
        if actions.value & 1:
            place = snapshot(step)
            if os.environ["PAWL_INCARNATION"] == "0" and step > 10:
                print("writes where it must not at step", step, flush=True)
                ctypes.memset(ctypes.c_void_p(place.value + 200), 0x55, 100)
                print("was not stopped", flush=True)
    assert pawl.pawl_finish(run, ctypes.byref(actions)) == 0
    if actions.value & 1:
        snapshot(60)
    assert pawl.pawl_finish_wait(run) == 0
    print("finished", flush=True)
"""


def test_a_stray_write_into_a_closed_snapshot_faults_the_trainer_and_harms_no_checkpoint(place: Place) -> None:
    library = BIN.parent / "lib" / "libpawl.so"
    script = place.path / "trainer.py"
    script.write_text(textwrap.dedent(STRAY).format(folder=str(Path(__file__).parent), library=str(library)))

    ended = place.run([sys.executable, str(script)], ["--keep-last", "100"])

    assert ended.code == 0, ended.output
    assert "was not stopped" not in ended.output
    assert "rank 0 was killed by SIGSEGV (11)" in ended.output
    found = re.search(r"writes where it must not at step (\d+)", ended.output)
    assert found, ended.output
    assert f"resumed at step {found[1]}" in ended.output, "the snapshot was closed: it is whole, and counts"
    closed = place.checkpoints / f"000002-step-{found[1]}" / "rank-00000.pt"
    assert f"step {found[1]} of rank 0".encode() in closed.read_bytes()
    assert_all_valid(place)
    assert processes_of(place.path) == []
