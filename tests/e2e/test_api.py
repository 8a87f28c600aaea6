"""The HTTP API as docs/api.yaml describes it, asked of a running daemon."""

from __future__ import annotations

import http.client
import json
import signal
import socket
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import yaml
from conftest import PAWLD, ROOT, TRAINER, Connection, Place, wait_for

DESCRIPTION: dict[str, Any] = yaml.safe_load((ROOT / "docs" / "api.yaml").read_text())
TABLES = ["events", "progress", "epochs", "incarnations", "checkpoints"]

# A request for each answer that is described; "default" stands for failures that can't be asked for.
REQUESTS: dict[tuple[str, str, str], str] = {
    ("get", "/healthz", "200"): "/healthz",
    ("get", "/v1/status", "200"): "/v1/status",
    ("post", "/v1/reload", "200"): "/v1/reload",
    ("post", "/v1/reload", "400"): "/v1/reload",
    ("post", "/v1/reload", "409"): "/v1/reload",
    ("post", "/v1/jobs/{job}/checkpoint", "202"): "/v1/jobs/run/checkpoint",
    ("post", "/v1/jobs/{job}/checkpoint", "404"): "/v1/jobs/none/checkpoint",
    ("post", "/v1/jobs/{job}/checkpoint", "409"): "/v1/jobs/run/checkpoint",
    ("post", "/v1/jobs/{job}/stop", "202"): "/v1/jobs/run/stop",
    ("post", "/v1/jobs/{job}/stop", "404"): "/v1/jobs/none/stop",
    ("post", "/v1/jobs/{job}/stop", "409"): "/v1/jobs/run/stop",
    **{
        ("get", f"/v1/jobs/{{job}}/{table}", status): target
        for table in TABLES
        for status, target in {
            "200": f"/v1/jobs/run/{table}?since=1h&until=2100-01-01&after=start&limit=1000",
            "400": f"/v1/jobs/run/{table}?since=never",
            "404": f"/v1/jobs/none/{table}",
        }.items()
    },
}


def ask(place: Place, method: str, target: str) -> tuple[str, str, bytes]:
    connection = Connection(place.state / "pawld.sock")
    connection.request(method.upper(), target)
    response = connection.getresponse()
    return str(response.status), response.headers["Content-Type"], response.read()


def described() -> list[tuple[str, str, str]]:
    return [
        (method, path, status)
        for path, operations in DESCRIPTION["paths"].items()
        for method, operation in operations.items()
        if method != "parameters"
        for status in operation["responses"]
        if status != "default"
    ]


def resolved(node: dict[str, Any]) -> dict[str, Any]:
    """The node that a reference stands for."""
    while "$ref" in node:
        target = DESCRIPTION
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        node = target
    return node


def check(answer: tuple[str, str, bytes], method: str, path: str, status: str) -> Any:
    """It is the answer that is described."""
    response = resolved(DESCRIPTION["paths"][path][method]["responses"][status])
    [(content_type, content)] = response["content"].items()
    assert answer[:2] == (status, content_type), answer
    body = answer[2].decode() if content_type == "text/plain" else json.loads(answer[2])
    schema = {**content["schema"], "components": DESCRIPTION["components"]}
    jsonschema.Draft202012Validator(schema).validate(body)
    return body


def test_the_schemas_are_schemas() -> None:
    for schema in DESCRIPTION["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_each_answer_that_is_described_is_asked_for() -> None:
    assert sorted(described()) == sorted(REQUESTS)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A job on the way: two checkpoints, the end of an epoch, and one incarnation that was killed."""
    place = Place(tmp_path_factory.mktemp("api"))
    script = 'if [ "$PAWL_INCARNATION" = 0 ]; then exit 3; fi; exec "$@"'
    command = ["sh", "-c", script, "trainer", TRAINER, "--epochs", "200", "--train-samples", "1280", "--test-samples", "100"]
    daemon = place.start(command)
    place.wait_for_step(50, daemon)
    yield place
    place.kill_what_runs()


def asked_of_a_running_job() -> list[tuple[str, str, str]]:
    """Those that stop the job come last; what needs a pawld is asked for in tests of their own."""
    elsewhere = [key for key in REQUESTS if key[2] == "409" or key[1] == "/v1/reload"]
    return sorted((key for key in REQUESTS if key not in elsewhere), key=lambda key: (key[1].endswith("/stop"), key))


@pytest.mark.parametrize(("method", "path", "status"), asked_of_a_running_job())
def test_it_answers_as_described(running: Place, method: str, path: str, status: str) -> None:
    body = check(ask(running, method, REQUESTS[method, path, status]), method, path, status)

    if path.split("/")[-1] in TABLES and status == "200":
        assert body["job"] == "run"
        assert body["table"] == path.split("/")[-1]
        assert body["records"], "nothing was described by an empty list"


@pytest.fixture
def idle(place: Place) -> Place:
    """A pawld whose only job has ended."""
    configuration = place.path / "pawld.yaml"
    configuration.write_text(
        f"state_directory: {place.state}\n"
        f"jobs:\n  run:\n    command: ['true']\n    checkpoint: {{directory: {place.checkpoints}}}\n"
    )
    place.start(program=[PAWLD, "--config", str(configuration)])
    wait_for(lambda: (job := place.job()) and job["state"] == "finished", "the job's end")
    return place


@pytest.mark.parametrize("verb", ["checkpoint", "stop"])
def test_what_a_job_can_not_do_now_is_a_conflict(idle: Place, verb: str) -> None:
    path = f"/v1/jobs/{{job}}/{verb}"

    check(ask(idle, "post", REQUESTS["post", path, "409"]), "post", path, "409")


def test_a_reload_is_answered_as_described(idle: Place) -> None:
    configuration = idle.path / "pawld.yaml"
    sound = configuration.read_text()
    configuration.write_text(sound + "  second:\n    command: ['true']\n    checkpoint: {directory: second}\n")

    body = check(ask(idle, "post", "/v1/reload"), "post", "/v1/reload", "200")
    assert [(one["what"], one["job"]) for one in body["changes"]] == [("added", "second")]

    configuration.write_text("rubbish")
    check(ask(idle, "post", "/v1/reload"), "post", "/v1/reload", "400")


def test_under_pawl_run_there_is_nothing_to_reload(place: Place) -> None:
    daemon = place.start(["sh", "-c", "exec sleep 1000"])
    wait_for(place.job, "the daemon")

    check(ask(place, "post", "/v1/reload"), "post", "/v1/reload", "409")

    daemon.send_signal(signal.SIGTERM)
    place.end(daemon)


def test_rubbish_is_refused_and_the_next_request_is_answered(idle: Place) -> None:
    for rubbish, status in [
        (b"\x16\x03\x01\r\n\r\n", 400),
        (b"GET /" + b"a" * 100_000, 431),
        (b"POST / HTTP/1.1\r\nContent-Length: 9999999\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 501),
    ]:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(30)
            client.connect(str(idle.state / "pawld.sock"))
            try:
                client.sendall(rubbish)
            except BrokenPipeError:
                pass  # it has read enough
            answer = http.client.HTTPResponse(client)
            answer.begin()
            assert answer.status == status
            jsonschema.validate(json.loads(answer.read()), DESCRIPTION["components"]["schemas"]["Error"])
    assert ask(idle, "get", "/healthz")[0] == "200"
