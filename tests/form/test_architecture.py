"""The architecture's arrows, read from the code's own #include lines (docs/design.md, "Rooms")."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src"

# A room and the rooms whose headers it may include, besides its own.
MAY_INCLUDE: dict[str, set[str]] = {
    "base": set(),
    "torchfile": {"base"},
    "config": {"base"},
    "journal": {"base"},
    "staging": {"base"},
    "supervisor": {"base"},
    "control": {"base"},
    "checkpoint": {"base", "torchfile", "staging"},
    "adopt": {"base", "torchfile", "checkpoint"},
    "client": {"base", "torchfile", "staging", "checkpoint", "pawl"},
    "torch": {"base", "torchfile", "pawl"},
}

# Files that decide and do nothing: no clock, no file, no thread, no event loop, no log.
CORE = [
    "adopt/pattern",
    "adopt/plan",
    "supervisor/job_policy",
    "checkpoint/barrier",
    "checkpoint/cadence",
    "checkpoint/coordinator",
    "checkpoint/manifest",
    "checkpoint/name",
    "checkpoint/retention",
    "config/changes",
    "control/http",
    "journal/query",
    "journal/thinning",
]
NOT_IN_CORE = {
    "base/clock.h",
    "base/crash_point.h",
    "base/file_system.h",
    "base/loop.h",
    "base/worker.h",
    "fcntl.h",
    "fstream",
    "mutex",
    "random",
    "thread",
    "unistd.h",
    "uv.h",
}


def code_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in {".cc", ".h", ".hpp", ".inc"})


def quoted_includes(path: Path) -> list[str]:
    return re.findall(r'^#include "([^"]+)"', path.read_text(), flags=re.MULTILINE)


def includes(path: Path) -> list[str]:
    return re.findall(r'^#include [<"]([^>"]+)[>"]', path.read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("room", sorted(path.name for path in SOURCE.iterdir() if path.is_dir()))
def test_a_room_includes_only_the_rooms_below_it(room: str) -> None:
    files = code_files(SOURCE / room)
    assert files, f"src/{room} holds no code"

    allowed = MAY_INCLUDE[room] | {room}
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in files
        for name in quoted_includes(path)
        if name.split("/")[0] not in allowed
    ]

    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("stem", CORE)
def test_a_core_file_touches_nothing(stem: str) -> None:
    files = [SOURCE / f"{stem}{suffix}" for suffix in (".h", ".cc")]

    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in files
        for name in includes(path)
        if name in NOT_IN_CORE or name.startswith("spdlog")
    ]

    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("pattern", "places"),
    [
        (r"#include <torch/", ("src/torch/", "include/pawl/torch.hpp", "examples/", "tests/torch/")),
        (r"#include <rocksdb/", ("src/journal/",)),
        (r"#include <httplib", ("src/control/",)),
        (r"#include <yaml-cpp", ("src/config/",)),
    ],
)
def test_a_heavy_library_is_seen_by_its_own_room_only(pattern: str, places: tuple[str, ...]) -> None:
    folders = ["src", "daemon", "tools", "include", "examples"]

    users = [
        str(path.relative_to(ROOT))
        for folder in folders
        for path in code_files(ROOT / folder)
        if re.search(pattern, path.read_text())
    ]

    assert users, f"nobody uses {pattern}: this test has lost its object"
    assert not [user for user in users if not user.startswith(places)]


def test_every_source_file_begins_with_a_comment_that_says_what_it_is() -> None:
    files = [
        path for folder in ("src", "daemon", "tools", "examples", "bench", "tests") for path in code_files(ROOT / folder)
    ]

    silent = [str(path.relative_to(ROOT)) for path in files if not path.read_text().startswith(("//", "/*"))]

    assert not silent, "\n".join(silent)


def test_a_file_is_a_room_of_at_most_600_lines() -> None:
    files = [
        path for folder in ("src", "daemon", "tools", "examples", "bench", "tests") for path in code_files(ROOT / folder)
    ]

    long = [f"{path.relative_to(ROOT)}: {n}" for path in files if (n := len(path.read_text().splitlines())) > 600]

    assert not long, "\n".join(long)
