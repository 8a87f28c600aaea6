"""The JSON schema, the parser and the examples agree; what is broken fails in both, where the schema can say it.

Needs the tool, build/bin/pawl or the one that PAWL names.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PAWL = os.environ.get("PAWL", str(ROOT / "build" / "bin" / "pawl"))
EXAMPLES = sorted((ROOT / "configs").rglob("*.yaml"))
MAIN_FILES = [path for path in EXAMPLES if path.parent.name != "jobs.d"]
ENVIRONMENT = {**os.environ, "CHECKPOINTS": "/mnt/checkpoints"}


def pawl(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PAWL, *words], capture_output=True, text=True, check=False, env=ENVIRONMENT, timeout=60)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT / "configs"))


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    printed = pawl("config", "schema")
    assert printed.returncode == 0, printed.stderr
    return dict(json.loads(printed.stdout))


def errors_of(schema: dict[str, Any], document: Any) -> list[str]:
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(document)]


def test_the_schema_is_one(schema: dict[str, Any]) -> None:
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(schema)


def keywords_with_references(schema: Any) -> list[str]:
    if isinstance(schema, dict):
        own = [schema["$ref"]] if isinstance(schema.get("$ref"), str) else []
        return own + [found for value in schema.values() for found in keywords_with_references(value)]
    if isinstance(schema, list):
        return [found for value in schema for found in keywords_with_references(value)]
    return []


def test_every_reference_in_the_schema_leads_somewhere(schema: dict[str, Any]) -> None:
    references = set(keywords_with_references(schema))

    assert references
    for reference in references:
        place: Any = schema
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]
        assert place


@pytest.mark.parametrize("path", EXAMPLES, ids=name_of)
def test_an_example_passes_the_schema(schema: dict[str, Any], path: Path) -> None:
    if path not in MAIN_FILES:
        schema = {**schema["$defs"]["included_file"], "$defs": schema["$defs"], "properties": schema["properties"]}

    assert errors_of(schema, yaml.safe_load(path.read_text())) == []


@pytest.mark.parametrize("path", MAIN_FILES, ids=name_of)
def test_an_example_passes_the_parser_and_so_does_what_it_comes_to(path: Path, tmp_path: Path) -> None:
    checked = pawl("config", "check", str(path))
    shown = pawl("config", "show", str(path))
    (tmp_path / "shown.yaml").write_text(shown.stdout)
    again = pawl("config", "show", str(tmp_path / "shown.yaml"))

    assert checked.returncode == 0, checked.stderr
    assert "valid, " in checked.stdout
    assert shown.returncode == 0, shown.stderr
    assert again.stdout == shown.stdout


@pytest.mark.parametrize("path", MAIN_FILES, ids=name_of)
def test_what_is_shown_passes_the_schema_and_is_the_same_as_yaml_and_as_json(
    schema: dict[str, Any], path: Path
) -> None:
    as_json = json.loads(pawl("config", "show", str(path), "--json").stdout)
    as_yaml = yaml.safe_load(pawl("config", "show", str(path)).stdout)

    assert errors_of(schema, as_yaml) == []
    assert as_yaml == as_json


def test_every_example_is_among_those_that_are_checked() -> None:
    assert {name_of(path) for path in MAIN_FILES} >= {
        "pawld.yaml",
        "minimal.yaml",
        "multi_rank.yaml",
        "spot.yaml",
        "several/pawld.yaml",
    }


def leaves(schema: dict[str, Any], document: dict[str, Any], above: str = "") -> set[str]:
    """The keys of a map in the schema, with those of the maps in it."""
    found = set()
    for name, value in document["properties"].items():
        found.add(above + name)
        if "properties" in value:
            found |= leaves(schema, value, above + name + ".")
    return found


def test_pawld_yaml_has_every_key_written_or_as_a_comment(schema: dict[str, Any], tmp_path: Path) -> None:
    text = (ROOT / "configs" / "pawld.yaml").read_text()
    job_keys = leaves(schema, schema["$defs"]["job"])
    names = {key.rsplit(".", 1)[-1] for key in job_keys} | set(schema["properties"])
    # A key that is commented out reads "# every_steps: 1000", at the place where it belongs.
    commented = r"^( *)# ((?:" + "|".join(sorted(names)) + r"): .*)$"
    whole = re.sub(commented, r"\1\2", text, flags=re.MULTILINE)
    (tmp_path / "jobs.d").mkdir()
    (tmp_path / "pawld.yaml").write_text(whole)

    document = yaml.safe_load(whole)
    job = next(iter(document["jobs"].values()))

    def keys(part: dict[str, Any], above: str = "") -> set[str]:
        inner = [keys(value, f"{above}{name}.") for name, value in part.items() if isinstance(value, dict)]
        return {above + name for name in part}.union(*inner)

    assert set(schema["properties"]) <= set(document)
    assert job_keys <= keys(job)
    assert set(document["control"]) == set(schema["properties"]["control"]["properties"])
    assert errors_of(schema, document) == []
    checked = pawl("config", "check", str(tmp_path / "pawld.yaml"))
    assert checked.returncode == 0, checked.stderr


def test_the_defaults_in_pawld_yaml_are_those_of_the_schema(schema: dict[str, Any]) -> None:
    document = yaml.safe_load((ROOT / "configs" / "pawld.yaml").read_text())

    def compare(written: dict[str, Any], described: dict[str, Any], above: str) -> int:
        compared = 0
        for name, value in written.items():
            known = described["properties"][name]
            if "properties" in known:
                compared += compare(value, known, f"{above}{name}.")
            elif "default" in known:
                assert value == known["default"], above + name
                compared += 1
        return compared

    compared = compare(next(iter(document["jobs"].values())), schema["$defs"]["job"], "jobs.NAME.")

    assert compared > 8
    assert document["log_level"] == schema["properties"]["log_level"]["default"]


def test_the_reference_is_what_the_tool_prints() -> None:
    printed = pawl("config", "reference")

    assert (ROOT / "docs" / "configuration.md").read_text() == printed.stdout, (
        "run: build/bin/pawl config reference > docs/configuration.md"
    )


def test_the_reference_has_every_key_of_the_schema(schema: dict[str, Any]) -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()

    keys = leaves(schema, schema["$defs"]["job"]) | leaves(schema, schema)

    assert not [key for key in keys if f"| `{key}` |" not in text]


def job(*lines: str) -> str:
    body = "".join(f"    {line}\n" for line in lines)
    return f"jobs:\n  lm:\n    command: [train]\n    checkpoint: {{directory: /c}}\n{body}"


BROKEN = {
    "no jobs": "log_level: info\n",
    "an empty map of jobs": "jobs: {}\n",
    "a list": "- jobs\n",
    "an unknown key": "jobz: {}\n" + job(),
    "an unknown key in a job": job("rank: 2"),
    "an unknown key in a map": job("restart: {maximum: 2}"),
    "a job without command": "jobs:\n  lm:\n    checkpoint: {directory: /c}\n",
    "a job without checkpoint": "jobs:\n  lm:\n    command: [train]\n",
    "a checkpoint without directory": "jobs:\n  lm:\n    command: [train]\n    checkpoint: {every: 1h}\n",
    "a job that is nothing": "jobs:\n  lm:\n",
    "a job's name with a slash": "jobs:\n  a/b: {command: [x], checkpoint: {directory: /c}}\n",
    "a job's name that is hidden": "jobs:\n  .lm: {command: [x], checkpoint: {directory: /c}}\n",
    "a command that is a text": "jobs:\n  lm: {command: train now, checkpoint: {directory: /c}}\n",
    "an empty command": "jobs:\n  lm: {command: [], checkpoint: {directory: /c}}\n",
    "a list in a command": "jobs:\n  lm: {command: [a, [b]], checkpoint: {directory: /c}}\n",
    "no ranks": job("ranks: 0"),
    "too many ranks": job("ranks: 1025"),
    "ranks in words": job("ranks: two"),
    "half a rank": job("ranks: 1.5"),
    "a negative number": job("restart: {max: -1}"),
    "a duration without unit": job("stop: {grace: 30}"),
    "a fraction of a duration": job("stop: {grace: 1.5h}"),
    "units in the wrong order": job("stop: {grace: 30m1h}"),
    "a size without unit": job("output_rotate_at: 1000000"),
    "an unclear unit": job("output_rotate_at: 10G"),
    "a home directory": job("working_directory: ~/src"),
    "an empty path": job('output_directory: ""'),
    "a choice there is not": "log_level: verbose\n" + job(),
    "a variable of pawl's": job("environment: {PAWL_SOCKET: /x}"),
    "a rank's variable": job("environment: {WORLD_SIZE: 2}"),
    "a variable's name with a dash": job("environment: {A-B: x}"),
    "a variable that is a list": job("environment: {A: [x]}"),
    "an include that is a map": "include: {a: b}\n" + job(),
    "defaults that are a list": "defaults: []\n" + job(),
    "an unknown key in defaults": "defaults: {rank: 1}\n" + job(),
    "a number out of range in defaults": "defaults: {ranks: 0}\n" + job(),
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN.keys())
def test_what_is_broken_fails_in_both(schema: dict[str, Any], text: str, tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text(text)

    checked = pawl("config", "check", str(tmp_path / "broken.yaml"))

    assert errors_of(schema, yaml.safe_load(text)) != []
    assert checked.returncode == 78, checked.stdout
    assert re.search(r"broken\.yaml:\d+:\d+: ", checked.stderr), checked.stderr


def test_what_is_not_broken_passes_in_both(schema: dict[str, Any], tmp_path: Path) -> None:
    text = job("ranks: ${N:-2}", "stop: {grace: 1h30m, exit_grace: 500ms}", "output_rotate_at: 500MB")
    (tmp_path / "right.yaml").write_text(text)

    assert errors_of(schema, yaml.safe_load(text)) == []
    assert pawl("config", "check", str(tmp_path / "right.yaml")).returncode == 0


def test_a_check_and_a_comparison_are_understood_by_programs(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text(job("ranks: 1"))
    (tmp_path / "new.yaml").write_text("log_level: debug\n" + job("ranks: 2", "restart: {max: 3}"))

    checked = json.loads(pawl("config", "check", str(tmp_path / "old.yaml"), "--json").stdout)
    compared = json.loads(
        pawl("config", "diff", str(tmp_path / "old.yaml"), str(tmp_path / "new.yaml"), "--json").stdout
    )
    text = pawl("config", "diff", str(tmp_path / "old.yaml"), str(tmp_path / "new.yaml")).stdout

    assert checked["valid"] is True
    assert checked["jobs"] == ["lm"]
    assert [(change["key"], change["outcome"]) for change in compared["changes"]] == [
        ("log_level", "applied"),
        ("ranks", "refused"),
        ("restart.max", "applied"),
    ]
    assert "job 'lm': restart.max: 10 -> 3: applied\n" in text
