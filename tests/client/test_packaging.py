"""libpawl as others get it: what it exports, its headers in every language, and programs built from an installation."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("PAWL_BUILD", ROOT / "build")).resolve()
LIBRARY = BUILD / "lib" / "libpawl.so"
OUTSIDE = Path(__file__).parent / "outside"
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"]


def run(*words: str | Path, **environment: str) -> str:
    done = subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**{k: v for k, v in os.environ.items() if not k.startswith("PAWL_")}, **environment},
    )
    assert done.returncode == 0, f"{words} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


# ---- what it exports ----


def test_the_exported_symbols_are_the_list() -> None:
    lines = run("nm", "-D", "--with-symbol-versions", "--defined-only", LIBRARY).splitlines()

    # The version's own name is a symbol too, of the type A.
    exported = sorted(line.split()[2] for line in lines if line.split()[1] != "A")

    assert exported == (ROOT / "tests" / "client" / "abi.symbols").read_text().split()


def test_every_function_of_the_header_is_exported_and_none_else() -> None:
    declared = set(re.findall(r"^PAWL_API [^;]*?\b(pawl_\w+)\(", (ROOT / "include/pawl/pawl.h").read_text(), re.M))

    listed = {line.split("@")[0] for line in (ROOT / "tests/client/abi.symbols").read_text().split()}

    assert declared == listed


def test_the_soname_has_the_abi_version_and_the_library_stays_loaded() -> None:
    dynamic = run("readelf", "-d", LIBRARY)

    assert "Library soname: [libpawl.so.0]" in dynamic
    assert "NODELETE" in dynamic


def test_it_needs_neither_a_training_framework_nor_the_daemons_libraries() -> None:
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", run("readelf", "-d", LIBRARY))

    assert not [name for name in needed if re.search("torch|c10|rocksdb|httplib|yaml|systemd", name)], needed


# ---- its headers ----


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize(
    ("header", "language", "standard"),
    [
        ("pawl.h", "c", "c11"),
        ("pawl.h", "c++", "c++17"),
        ("pawl.h", "c++", "c++20"),
        ("pawl.hpp", "c++", "c++17"),
        ("pawl.hpp", "c++", "c++20"),
    ],
)
def test_a_header_compiles_by_itself(compiler: str, header: str, language: str, standard: str, tmp_path: Path) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    source = tmp_path / "includes_it"
    source.write_text(f"#include <pawl/{header}>\n#include <pawl/{header}>\nint used;\n")

    run(compiler, "-x", language, f"-std={standard}", *WARNINGS, "-I", ROOT / "include", source)


# ---- an installation ----


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where it was installed, and moved to: an installation is no prisoner of its path."""
    first = tmp_path_factory.mktemp("installed") / "first"
    for component in ("Runtime", "Development"):
        run("cmake", "--install", BUILD, "--prefix", first, "--component", component)
    return first.rename(first.with_name("moved"))


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch = pytest.importorskip("torch")
    path = tmp_path_factory.mktemp("image") / "state.pt"
    torch.save({"weight": torch.arange(12.0).reshape(3, 4), "epoch": 7}, path)
    return Path(path)


def assert_is_the_state(path: Path) -> None:
    torch = pytest.importorskip("torch")
    state = torch.load(path, map_location="cpu", weights_only=True)
    assert state["epoch"] == 7
    assert torch.equal(state["weight"], torch.arange(12.0).reshape(3, 4))


def library_directory(prefix: Path) -> Path:
    return next(prefix.rglob("libpawl.so.0")).parent


def test_a_c_program_is_built_with_pkg_config_and_saves_what_torch_loads(
    prefix: Path, image: Path, tmp_path: Path
) -> None:
    libraries = library_directory(prefix)
    flags = run("pkg-config", "--cflags", "--libs", "pawl", PKG_CONFIG_PATH=str(libraries / "pkgconfig")).split()
    program = tmp_path / "train"
    run("gcc", "-std=c11", *WARNINGS[:-1], OUTSIDE / "train.c", "-o", program, *flags)

    run(program, image, tmp_path / "checkpoints", LD_LIBRARY_PATH=str(libraries))

    assert str(prefix) in " ".join(flags)
    assert_is_the_state(tmp_path / "checkpoints" / "000001-step-1" / "rank-00000.pt")


def configure(prefix: Path, build: Path, *more: str) -> None:
    run("cmake", "-S", OUTSIDE, "-B", build, "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={prefix}", *more)


def test_a_cxx_program_is_built_with_find_package_and_saves_what_torch_loads(
    prefix: Path, image: Path, tmp_path: Path
) -> None:
    configure(prefix, tmp_path / "build")
    run("cmake", "--build", tmp_path / "build", "--target", "train_cxx")

    run(tmp_path / "build" / "train_cxx", image, tmp_path / "checkpoints")

    assert_is_the_state(tmp_path / "checkpoints" / "000001-step-1" / "rank-00000.pt")


def test_a_version_that_is_not_there_is_refused(prefix: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.25)\nproject(newer LANGUAGES C)\nfind_package(pawl 9.9 REQUIRED)\n"
    )

    done = subprocess.run(
        ["cmake", "-S", project, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={prefix}"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode != 0
    assert 'compatible with requested version "9.9"' in re.sub(r"\s+", " ", done.stderr)


def test_a_libtorch_program_is_built_with_find_package(prefix: Path, tmp_path: Path) -> None:
    if not list(prefix.rglob("libpawl_torch.a")):
        pytest.skip("the LibTorch helper was not built")
    configure(prefix, tmp_path / "build", "-DOUTSIDE_WITH_TORCH=ON")
    run("cmake", "--build", tmp_path / "build", "--target", "train_torch")

    run(tmp_path / "build" / "train_torch", tmp_path / "checkpoints")

    path = tmp_path / "checkpoints" / "000001-step-1" / "rank-00000.pt"
    script = f"import torch; s = torch.load({str(path)!r}); assert s['model_state_dict']['weight'].shape == (1, 2)"
    run(sys.executable, "-c", script)
