"""The table "Who reads what" of docs/formats.md, made anew from both PyTorch versions and compared.

Each row is a type of value (interop_values.py), each column a writer and a reader. A file of pawl's is what
`interop_tool --rewrite` makes of PyTorch 2's: read and written again. "yes" is: the same to the last bit, strides,
sharing, Python types. The table in the document is compared with what happens; PAWL_WRITE_TABLE=1 writes it instead.

Needs /usr/bin/python3 with PyTorch 1.13, PyTorch 2 (tools/setup_torch2.sh), and interop_tool, named by
PAWL_INTEROP_TOOL.
"""

from __future__ import annotations

import json
import os
import pickletools
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "formats.md"
BEGIN, END = "<!-- interop table: begin -->\n", "<!-- interop table: end -->"
WORKER = Path(__file__).with_name("interop_values.py")
TOOL = os.environ.get("PAWL_INTEROP_TOOL", str(ROOT / "build" / "bin" / "interop_tool"))
PYTHON_1 = "/usr/bin/python3"
WAYS = {
    "pawl → 1.13": ("1", "plain"),
    "pawl → 1.13, `weights_only`": ("1", "weights_only"),
    "pawl → 2.15": ("2", "plain"),
    "pawl → 2.15, `weights_only`": ("2", "weights_only"),
    "pawl → 2.15, `mmap`": ("2", "mmap"),
}
CODE_OF_OPCODE = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}


def python_2() -> str:
    environment = os.environ.get("PAWL_TORCH2_ENV") or str(
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pawl" / "torch2"
    )
    python = Path(environment) / "bin" / "python"
    assert python.exists(), f"PyTorch 2 is not in {environment}: install it with tools/setup_torch2.sh"
    return str(python)


def worker(python: str, command: str, folder: Path) -> dict:
    done = subprocess.run([python, str(WORKER), command, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, f"{python} {command}: {done.stderr[-2000:]}"
    return json.loads(done.stdout)


def tool(*arguments: str | Path) -> dict:
    done = subprocess.run([TOOL, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode in (0, 1), f"{arguments}: {done.returncode} {done.stderr}"
    return {"value": done.stdout.rstrip("\n")} if done.returncode == 0 else {"error": done.stderr}


# What an error is in the table: its first match.
REASONS = (
    (r"which is no plain data", r"holds a '([^']+)'", "`{}`"),
    (r"the file is no torch.save archive", r"archive but (.+?)\. ", "{}"),
    (r"a storage stands", r"()", "a storage, not a tensor"),
    (r"Unsupported operand", r"operand (\d+)", "opcode {}"),
    (r"Unsupported class", r"class (\S+)", "`{}`"),
    (r"Unsupported global", r"GLOBAL (\S+) was not", "`{}`"),
    (r"Can't get attribute", r"attribute '(\w+)'", "no `{}`"),
    (r"takes 6 positional arguments but 7", r"()", "knows no lazy conj, neg"),
    (r"NotThere", r": (.+)", "{}"),
    (r"is not recognized", r"dtype torch\.(\w+)", "does not save {}"),
)


def refused(error: str) -> str:
    for sign, pattern, text in REASONS:
        if sign not in error:
            continue
        found = re.search(pattern, error)
        assert found, error
        word = found.group(1)
        return "refused: " + text.format(CODE_OF_OPCODE.get(int(word)) if word.isdecimal() else word)
    raise AssertionError(f"no reason is known for: {error}")


def cell(result: dict, value: str, other: dict | None = None) -> str:
    """`other`: what the writer itself reads back, where that is less than `value`."""
    if "error" in result:
        return refused(result["error"])
    if result["value"] == value:
        return "yes"
    if other is not None and result == other:
        return "yes; 1.13 saves no more than the bytes"
    if without_attributes(value) == result["value"]:
        return "yes, but for the attributes"
    raise AssertionError(f"differs:\n{value[:3000]}\n{result['value'][:3000]}")


def without_attributes(value: str) -> str:
    return re.sub(r"(<\S+ shape [^{]*?) \{.*?\}(?= storage)", r"\1", value)


def table(folder: Path) -> list[list[str]]:
    places = {name: folder / name for name in ("by_1", "by_2", "by_pawl")}
    for place in places.values():
        place.mkdir()
    saved = {"1": worker(PYTHON_1, "save", places["by_1"]), "2": worker(python_2(), "save", places["by_2"])}
    rewritten = {
        name: tool("--rewrite", places["by_2"] / row["file"], places["by_pawl"] / row["file"])
        for name, row in saved["2"].items()
        if "file" in row
    }
    loaded = {"1": worker(PYTHON_1, "load", places["by_pawl"]), "2": worker(python_2(), "load", places["by_pawl"])}

    rows = [["value", *WAYS, "1.13 → pawl", "2.15 → pawl"], ["---"] * 8]
    for name, row in saved["2"].items():
        cells = [name]
        for version, way in WAYS.values():
            if "error" in rewritten[name]:
                cells.append("refused: no value of pawl's")
            else:
                cells.append(cell(loaded[version][row["file"]][way], row["value"]))
        for version in "12":
            one = saved[version][name]
            if "error" in one:
                cells.append(refused(one["error"]))
            else:
                other = one["again"] if one["again"].get("value") != one["value"] else None
                cells.append(cell(tool("--describe", places[f"by_{version}"] / one["file"]), one["value"], other))
        rows.append(cells)
    return rows


def test_the_table_in_the_document_is_what_happens(tmp_path: Path) -> None:
    rows = table(tmp_path)
    made = "".join("| " + " | ".join(cells) + " |\n" for cells in rows)
    document = DOCUMENT.read_text()
    before, rest = document.split(BEGIN)
    written, after = rest.split(END)

    if os.environ.get("PAWL_WRITE_TABLE"):
        DOCUMENT.write_text(before + BEGIN + made + END + after)
        return

    assert written == made, "docs/formats.md is not what happens: PAWL_WRITE_TABLE=1 writes the table anew"


def test_a_value_that_differs_is_no_yes() -> None:
    with pytest.raises(AssertionError, match="differs"):
        cell({"value": "tensor#1<float32 shape (2) stride (1) offset 0 storage@1 00>"}, "int 1")
    with pytest.raises(AssertionError, match="no reason is known"):
        refused("ValueError: something new")
