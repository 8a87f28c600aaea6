"""The trainer protocol spoken by hand, docs/formats.md: for ranks that lie, stall and die on purpose.

Imported by the tests for its constants, and run by the daemon as a rank: `python3 rank_protocol.py SCRIPT`, where SCRIPT
is Python that uses `rank`. What a rank has to say goes to its log and to `said-RANK-INCARNATION` in its directory.
"""

from __future__ import annotations

import array
import io
import json
import mmap
import os
import socket
import struct
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

PAGE = 4096
ARENA = 1 << 16
STARTING, TRAINING, EVALUATION, SAVING, FINISHED = range(5)
NOBODY = (1 << 64) - 1


def image(step: int, rank: int) -> bytes:
    """A stored zip with one root folder, as torch.save makes it; the daemon never looks into the pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
        archive.writestr("archive/data/0", f"step {step} of rank {rank} ".encode() * 64)
        archive.writestr("archive/version", b"3\n")
    return buffer.getvalue()


class Rank:
    """A rank as its messages make it. Everything is checked by the daemon, nothing here."""

    def __init__(self) -> None:
        self.number = int(os.environ.get("RANK", "0"))
        self.world_size = int(os.environ.get("WORLD_SIZE", "1"))
        self.incarnation = int(os.environ.get("PAWL_INCARNATION", "0"))
        self.step = self.epoch = self.answered = 0
        self.arenas: dict[int, mmap.mmap] = {}
        self.ours: set[int] = {0, 1}
        self.received: list[dict[str, Any]] = []
        self.resumed: dict[str, Any] = {}

    def say(self, text: str) -> None:
        print(text, flush=True)
        with Path(f"said-{self.number}-{self.incarnation}").open("a") as file:
            file.write(text + "\n")

    # ---- messages ----

    def connect(self) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.connect(os.environ["PAWL_SOCKET"])

    def send(self, kind: str, **fields: Any) -> None:
        self.socket.send(json.dumps({"type": kind, **fields}).encode())

    def receive(self, flags: int = 0) -> dict[str, Any] | None:
        """The next message; None if the daemon has hung up."""
        try:
            # Not recv_fds, which forgets its flags.
            data, control, _, _ = self.socket.recvmsg(1 << 16, socket.CMSG_SPACE(4 * 4), flags)
        except ConnectionError:
            return None
        if not data:
            return None
        message = dict(json.loads(data))
        descriptors = array.array("i")
        for _, _, packed in control:
            descriptors.frombytes(packed)
        message["fds"] = list(descriptors)
        self.received.append(message)
        if message["type"] == "SlotReleased":
            self.ours.add(message["slot"])
        return message

    def wait_for(self, kind: str) -> dict[str, Any]:
        while True:
            message = self.receive()
            if message is None:
                self.say(f"hung up on while waiting for {kind}")
                sys.exit(0)
            if message["type"] == kind:
                return message

    def hello(self, **lies: Any) -> None:
        truth = {
            "protocol": 1,
            "rank": self.number,
            "incarnation": self.incarnation,
            "world_size": self.world_size,
            "framework": "by hand",
        }
        self.send("Hello", **{**truth, **lies})

    def attach(self, together: bool = True, **lies: Any) -> None:
        self.connect()
        self.hello(**lies)
        welcome = self.wait_for("Welcome")
        self.pages = mmap.mmap(welcome["fds"][0], PAGE)
        self.control = mmap.mmap(welcome["fds"][0], PAGE, prot=mmap.PROT_READ, offset=PAGE)
        self.resumed = self.wait_for("Resume")
        self.step, self.epoch = self.resumed["step"], self.resumed["epoch"]
        self.say(f"attached at step {self.step}")
        # Until all are: only then does the daemon ask for anything.
        while together and self.asked()[0] == 0:
            time.sleep(0.001)

    # ---- pages ----

    def write_page(self, step: int, epoch: int = 0, phase: int = TRAINING) -> None:
        (generation,) = struct.unpack_from("<Q", self.pages, 0)
        struct.pack_into("<Q", self.pages, 0, generation + 1)
        struct.pack_into("<QQdQQ", self.pages, 8, step, epoch, 0.5, phase, time.monotonic_ns())
        struct.pack_into("<Q", self.pages, 0, generation + 2)

    def asked(self) -> tuple[int, int, int, int]:
        """Request, step, epoch, flags."""
        while True:
            before, *fields = struct.unpack_from("<5Q", self.control, 0)
            (after,) = struct.unpack_from("<Q", self.control, 0)
            if before == after and before % 2 == 0:
                return fields[0], fields[1], fields[2], fields[3]

    # ---- snapshots ----

    def arena(self, slot: int, size: int = ARENA) -> None:
        self.send("ArenaRequest", slot=slot, bytes=size)
        granted = self.wait_for("ArenaGranted")
        self.arenas[slot] = mmap.mmap(granted["fds"][0], size)
        os.close(granted["fds"][0])

    def fill(self, slot: int) -> int:
        data = image(self.step, self.number)
        self.arenas[slot][: len(data)] = data
        return len(data)

    def seal(self, request: int, **lies: Any) -> None:
        while not self.ours:
            self.wait_for("SlotReleased")
        slot = min(self.ours)
        if slot not in self.arenas:
            self.arena(slot)
        truth = {
            "request": request,
            "slot": slot,
            "bytes": self.fill(slot),
            "step": self.step,
            "epoch": self.epoch,
            "metrics": {},
        }
        self.ours.discard(slot)
        self.send("SnapshotSealed", **{**truth, **lies})

    def drain(self) -> None:
        """Reads what is there."""
        while True:
            try:
                if self.receive(socket.MSG_DONTWAIT) is None:
                    self.say("hung up on")
                    sys.exit(0)
            except BlockingIOError:
                return

    def take_step(self) -> bool:
        """One honest step; whether a snapshot was taken after it."""
        self.drain()
        self.step += 1
        self.write_page(self.step, self.epoch)
        request, at_step, _, flags = self.asked()
        if flags & 2:
            self.say(f"leaves at step {self.step}")
            sys.exit(0)
        if request in (0, self.answered) or at_step == NOBODY:
            return False
        if self.step > at_step:
            self.answered = request
            self.send("SnapshotPassed", request=request, step=self.step)
        if self.step != at_step:
            return False
        self.answered = request
        self.seal(request)
        return True

    def train(self, until: int, pause: float = 0.005) -> None:
        while self.step < until:
            self.take_step()
            time.sleep(pause)

    def finish(self) -> None:
        """Honest to the end: the final checkpoint is durable, or the daemon hung up."""
        self.write_page(self.step, self.epoch, FINISHED)
        self.send("Finishing", step=self.step, epoch=self.epoch)
        final = None
        while True:
            message = self.receive()
            if message is None:
                self.say("hung up on at the end")
                sys.exit(1)
            if message["type"] == "TakeSnapshot":
                if message["request"] == 0:
                    sys.exit(0)
                final = message["request"]
                self.seal(final)
            if message["type"] == "SnapshotDurable" and message["step"] == self.step:
                self.say(f"finished at step {self.step}")
                return
            if message["type"] == "SnapshotFailed" and message["request"] == final:
                self.say(f"no final checkpoint: {message['why']}")
                sys.exit(1)


if __name__ == "__main__":
    exec(sys.argv[1], {"rank": Rank(), **{name: value for name, value in globals().items() if name != "rank"}})
