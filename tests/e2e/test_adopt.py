"""Scripts that are not changed: what they save themselves survives, and is what they go on from."""

from __future__ import annotations

import base64
import json
import os
import random
import select
import signal
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import DEADLINE_S, PAWLD, ROOT, Ended, Place, a_seed, wait_for
from faults import FAULTS, TRAINER, Fault, calls_in

PYTHON = os.environ.get("PAWL_PYTHON", "/usr/bin/python3")
ARTICLE = [PYTHON, str(ROOT / "examples" / "python" / "article.py")]
EPOCHS = 30
# Of a later test's crash points.
ADOPT_POINTS = ["adopt: examined", "adopt: committed"]
PUT_BACK_POINTS = ["put back: written", "put back: set aside", "put back: renamed"]


@pytest.fixture(scope="session", autouse=True)
def has_torch() -> None:
    if subprocess.run([PYTHON, "-c", "import torch"], capture_output=True, check=False).returncode != 0:
        pytest.skip(f"{PYTHON} has no torch")


def alone(command: list[str], where: Path, **environment: str) -> Ended:
    done = subprocess.run(
        command,
        cwd=where,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )
    return Ended(done.returncode, done.stdout + done.stderr)


def killed_while_saving(command: list[str], plan: Path, below: Path) -> list[str]:
    """The command; incarnation N is killed at that write to the file which line N of the plan says, if it has one."""
    script = (
        f'at=$(sed -n "$((PAWL_INCARNATION + 1))p" "{plan}"); [ -z "$at" ] && exec "$@"; '
        f'exec env LD_PRELOAD="{FAULTS}" PAWL_FAULTS_BELOW="{below}" PAWL_FAULTS_KINDS=write '
        'PAWL_FAULTS_DO=kill-before PAWL_FAULTS_AT="$at" "$@"'
    )
    return ["sh", "-c", script, "script", *command]


def running_rank(place: Place, known: set[int]) -> int | None:
    job = place.job()
    pid = int(job["ranks"][0]["pid"]) if job and job["ranks"] else 0
    return pid if pid and pid not in known else None


def epochs_said(place: Place) -> int:
    log = place.state / "logs" / "rank-00000.log"
    return log.read_text().count("epoch ") if log.exists() else 0


def manifests(place: Place) -> list[dict[str, object]]:
    return [json.loads((place.checkpoints / name / "manifest.json").read_text()) for name in place.committed()]


# ---- the article's script ----


def test_the_articles_script_killed_ten_times_also_while_it_saves_ends_as_if_undisturbed(
    place: Place, tmp_path_factory: pytest.TempPathFactory
) -> None:
    epochs = ["--epochs", str(EPOCHS)]
    here = tmp_path_factory.mktemp("alone")
    file = here / "checkpoint.pth"
    counted = alone([*ARTICLE, *epochs], here, **Fault(file, kinds="write").environment(here / "writes"))
    assert counted.code == 0, counted.output
    writes = len(calls_in(here / "writes")) // EPOCHS
    assert writes > 1
    weights = (here / "weights.pth").read_bytes()

    # Alone, a kill inside torch.save costs everything: the script can't even start again.
    (here / "weights.pth").unlink()
    file.unlink()
    torn = alone(
        [*ARTICLE, *epochs], here, **Fault(file, at=2 * writes, kinds="write").environment(here / "torn-writes")
    )
    assert torn.code == -signal.SIGKILL, torn.output
    again = alone([*ARTICLE, *epochs], here)
    assert again.code == 1, again.output
    assert "torch.load" in again.output
    assert not (here / "weights.pth").exists()

    # Under pawl: five kills inside a save, in this epoch's or the next one's, and five anywhere.
    chance = random.Random(a_seed())
    plan = [str(chance.randint(1, 2 * writes)) if i % 2 == 0 else "" for i in range(10)]
    (place.path / "plan").write_text("\n".join(plan) + "\n")
    command = killed_while_saving([*ARTICLE, *epochs], place.path / "plan", place.path / "checkpoint.pth")
    daemon = place.start(command, ["--adopt", "checkpoint.pth", "--max-restarts", "20"])
    known: set[int] = set()
    for at in plan:
        pid = wait_for(lambda: running_rank(place, known), "the next incarnation")
        known.add(pid)
        if not at:
            # Anywhere: in its imports, or some moments after one or two of its epochs.
            wanted = epochs_said(place) + chance.randint(0, 2)
            wait_for(lambda: epochs_said(place) >= wanted, "an epoch")  # noqa: B023
            select.select([], [], [], chance.uniform(0, 0.1))
            os.kill(pid, signal.SIGKILL)
    ended = place.end(daemon)

    assert ended.code == 0, ended.output
    assert ended.output.count("was killed by SIGKILL") == 10
    assert "was torn while it was saved" in ended.output
    assert (place.path / "weights.pth").read_bytes() == weights
    assert place.pawl("checkpoints", "verify").code == 0
    assert manifests(place)[-1]["epoch"] == EPOCHS - 1


# ---- smaller scripts, which save in torch's format without torch ----

SAVER = """
import os, pickle, shutil, sys, time, zipfile

def save(path, pad=1000, **values):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(values, 2))
        archive.writestr("archive/data/0", bytes(range(250)) * (pad // 250))
        archive.writestr("archive/version", "3\\n")

def load(path):
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return pickle.loads(archive.read("archive/data.pkl"))

def say(text):
    with open("said", "a") as file:
        file.write(f"{text}\\n")

def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.005)
"""
# Counts epochs and goes on where its file says.
COUNTER = """
start = 0
if os.path.exists("checkpoint.pth"):
    start = load("checkpoint.pth")["epoch"] + 1
say(f"begins at {start}")
for epoch in range(start, 6):
    save("checkpoint.pth", epoch=epoch)
say("ends")
"""


def script(place: Place, body: str) -> list[str]:
    (place.path / "script.py").write_text(SAVER + body)
    return [PYTHON, "script.py"]


def said(place: Place) -> list[str]:
    return (place.path / "said").read_text().splitlines()


def epoch_in(place: Place, name: str = "checkpoint.pth") -> int:
    done = alone([PYTHON, "-c", f"{SAVER}\nprint(load({name!r})['epoch'])"], place.path)
    assert done.code == 0, done.output
    return int(done.output)


def tear(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])


def aside(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir() if path.name.startswith(".") and path.name != ".pawl")


ADOPT = ["--adopt", "checkpoint.pth"]


@pytest.mark.parametrize("saves_under", ["checkpoint.pth", "checkpoint.pth.new"])
def test_every_version_is_a_checkpoint_and_the_last_one_counts(place: Place, saves_under: str) -> None:
    moved = "" if saves_under == "checkpoint.pth" else f'\n    os.replace("{saves_under}", "checkpoint.pth")'
    slow = COUNTER.replace(
        'save("checkpoint.pth", epoch=epoch)',
        f'save("{saves_under}", epoch=epoch){moved}\n    wait_for(f"go-{{epoch}}")',
    )
    daemon = place.start(script(place, slow), [*ADOPT, "--keep-last", "100"])
    for epoch in range(5):
        wait_for(lambda: len(place.committed()) == epoch + 1 if place.checkpoints.exists() else False, "a checkpoint")  # noqa: B023
        (place.path / f"go-{epoch}").touch()
    (place.path / "go-5").touch()
    ended = place.end(daemon)

    assert ended.code == 0, ended.output
    assert [manifest["epoch"] for manifest in manifests(place)] == [0, 1, 2, 3, 4, 5]
    newest = manifests(place)[-1]
    assert (newest["reason"], newest["step"], newest["world_size"]) == ("adopt", 5, 1)
    assert newest["adopted"][0]["path"] == "checkpoint.pth"  # type: ignore[index]
    assert (place.newest() / "checkpoint.pth").read_bytes() == (place.path / "checkpoint.pth").read_bytes()
    assert place.pawl("checkpoints", "verify").code == 0
    listed = place.pawl("checkpoints", "list")
    assert "adopt" in listed.output, listed.output


@pytest.mark.parametrize("point", [*ADOPT_POINTS, "commit: files allocated", "commit: data written", "commit: renamed"])
def test_a_daemon_killed_while_it_keeps_a_version_loses_none(place: Place, point: str) -> None:
    waits = COUNTER.replace('say("ends")', 'wait_for("go")\nsay("ends")')
    crashed = place.run(script(place, waits), ADOPT, environment={"PAWL_CRASH_POINT": f"{point}#1"})
    assert crashed.code == -signal.SIGKILL, crashed.output

    (place.path / "go").touch()
    ended = place.run(script(place, waits), ADOPT)

    assert ended.code == 0, ended.output
    assert said(place)[-1] == "ends"
    assert manifests(place)[-1]["epoch"] == 5
    assert epoch_in(place) == 5
    assert place.pawl("checkpoints", "verify").code == 0


@pytest.mark.parametrize("point", PUT_BACK_POINTS)
def test_a_daemon_killed_while_it_puts_a_file_back_has_it_back_at_the_next_start(place: Place, point: str) -> None:
    assert place.run(script(place, COUNTER), ADOPT).code == 0
    whole = (place.path / "checkpoint.pth").read_bytes()
    tear(place.path / "checkpoint.pth")
    crashed = place.run(script(place, COUNTER), ADOPT, environment={"PAWL_CRASH_POINT": point})
    assert crashed.code == -signal.SIGKILL, crashed.output

    ended = place.run(script(place, COUNTER), ADOPT)

    assert ended.code == 0, ended.output
    assert said(place) == ["begins at 0", "ends", "begins at 6", "ends"]
    assert (place.path / "checkpoint.pth").read_bytes() == whole
    assert aside(place.path) == [".checkpoint.pth.torn-1"]


def test_a_torn_file_is_set_aside_and_the_version_before_put_back(place: Place) -> None:
    file = place.path / "checkpoint.pth"
    assert place.run(script(place, COUNTER), ADOPT).code == 0
    whole = file.read_bytes()
    file.chmod(0o640)
    modified = file.stat().st_mtime_ns
    tear(file)

    ended = place.run(script(place, COUNTER), ADOPT)

    assert ended.code == 0, ended.output
    assert "was torn while it was saved (it has no zip end record" in ended.output
    assert "put back from checkpoint" in ended.output
    assert said(place)[-2:] == ["begins at 6", "ends"]
    assert file.read_bytes() == whole
    assert (file.stat().st_mode & 0o777, file.stat().st_mtime_ns) == (0o640, modified)
    assert (place.path / ".checkpoint.pth.torn-1").read_bytes() == whole[: len(whole) // 2]
    kinds = [record["kind"] for record in place.json("journal", "events")]
    assert "adopt" in kinds


def test_of_torn_files_the_newest_three_stay(place: Place) -> None:
    assert place.run(script(place, COUNTER), ADOPT).code == 0
    for _ in range(5):
        tear(place.path / "checkpoint.pth")
        assert place.run(script(place, COUNTER), ADOPT).code == 0

    assert aside(place.path) == [f".checkpoint.pth.torn-{n}" for n in (3, 4, 5)]


def test_one_flipped_bit_is_found_before_the_script_loads_it(place: Place) -> None:
    file = place.path / "checkpoint.pth"
    assert place.run(script(place, COUNTER), ADOPT).code == 0
    whole = file.read_bytes()
    at = whole.index(bytes(range(250))) + 100
    file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])

    ended = place.run(script(place, COUNTER), ADOPT)

    assert ended.code == 0, ended.output
    assert "record 'archive/data/0' does not have the CRC that it states" in ended.output
    assert file.read_bytes() == whole


def test_a_file_that_is_gone_is_put_back_with_its_directory(place: Place) -> None:
    body = COUNTER.replace("checkpoint.pth", "out/deep/c.pth").replace(
        "for epoch", 'os.makedirs("out/deep", exist_ok=True)\nfor epoch'
    )
    options = ["--adopt", "out/*/c.pth"]
    assert place.run(script(place, body), options).code == 0
    subprocess.run(["rm", "-r", str(place.path / "out")], check=True)

    ended = place.run(script(place, body), options)

    assert ended.code == 0, ended.output
    assert "'out/deep/c.pth' was put back from checkpoint" in ended.output
    assert said(place)[-2:] == ["begins at 6", "ends"]


def test_a_file_that_was_there_before_pawl_is_kept_and_not_overwritten(place: Place) -> None:
    assert alone(script(place, COUNTER.replace("range(start, 6)", "range(start, 3)")), place.path).code == 0

    ended = place.run(script(place, COUNTER), [*ADOPT, "--keep-last", "100"])

    assert ended.code == 0, ended.output
    assert said(place) == ["begins at 0", "ends", "begins at 3", "ends"]
    assert manifests(place)[0]["epoch"] == 2
    assert manifests(place)[-1]["epoch"] == 5


def test_what_the_script_saved_without_pawl_in_between_is_newer_and_wins(place: Place) -> None:
    assert place.run(script(place, COUNTER), ADOPT).code == 0
    assert alone(script(place, COUNTER.replace("6", "9")), place.path).code == 0

    ended = place.run(script(place, COUNTER.replace("6", "11")), ADOPT)

    assert ended.code == 0, ended.output
    assert said(place)[-2:] == ["begins at 9", "ends"]
    assert manifests(place)[-1]["epoch"] == 10


def test_an_older_copy_in_its_place_is_set_aside_for_the_newest(place: Place) -> None:
    file = place.path / "checkpoint.pth"
    assert alone(script(place, COUNTER.replace("6", "2")), place.path).code == 0
    older = file.read_bytes()
    times = (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    file.unlink()
    (place.path / "said").unlink()
    assert place.run(script(place, COUNTER.replace("epoch=epoch", "epoch=epoch, own=1")), ADOPT).code == 0
    file.write_bytes(older)
    os.utime(file, ns=times)

    ended = place.run(script(place, COUNTER), ADOPT)

    assert ended.code == 0, ended.output
    assert "'checkpoint.pth' is older than checkpoint" in ended.output
    assert said(place)[-2:] == ["begins at 6", "ends"]
    assert (place.path / ".checkpoint.pth.replaced-1").read_bytes() == older


def test_a_torn_file_of_before_pawl_is_set_aside_and_the_script_begins_anew(place: Place) -> None:
    (place.path / "checkpoint.pth").write_bytes(b"PK\3\4 and then the machine went away")

    ended = place.run(script(place, COUNTER), ADOPT)

    assert ended.code == 0, ended.output
    assert "'checkpoint.pth' is torn" in ended.output
    assert "there is no checkpoint of it: set aside as" in ended.output
    assert said(place) == ["begins at 0", "ends"]
    assert (place.path / ".checkpoint.pth.torn-1").read_bytes().startswith(b"PK\3\4 and")


def flip_a_byte(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("keep_last", ["1", "3"])
def test_of_a_damaged_checkpoint_the_file_that_is_still_whole_is_kept_again(place: Place, keep_last: str) -> None:
    slow = COUNTER.replace("epoch=epoch)", "epoch=epoch)\n    time.sleep(0.1)")
    assert place.run(script(place, slow), [*ADOPT, "--keep-last", keep_last]).code == 0
    flip_a_byte(place.newest() / "checkpoint.pth")

    ended = place.run(script(place, slow), [*ADOPT, "--keep-last", keep_last])

    assert ended.code == 0, ended.output
    assert "is damaged and was moved to" in ended.output
    assert said(place)[-2:] == ["begins at 6", "ends"]
    assert manifests(place)[-1]["epoch"] == 5


def test_with_the_file_and_all_checkpoints_damaged_nothing_begins_again(place: Place) -> None:
    assert place.run(script(place, COUNTER), [*ADOPT, "--keep-last", "1"]).code == 0
    flip_a_byte(place.newest() / "checkpoint.pth")
    tear(place.path / "checkpoint.pth")

    ended = place.run(script(place, COUNTER), ADOPT)

    assert ended.code == 65, ended.output
    assert "no valid checkpoint is left" in ended.output
    assert said(place) == ["begins at 0", "ends"]


def test_a_file_that_cannot_be_put_back_keeps_the_script_from_beginning_again(place: Place) -> None:
    file = place.path / "checkpoint.pth"
    assert place.run(script(place, COUNTER), ADOPT).code == 0
    file.unlink()
    file.mkdir()

    ended = place.run(script(place, COUNTER), ADOPT)

    assert ended.code == 74, ended.output
    assert f"cannot put '{file}' back" in ended.output
    assert "Not started" in ended.output
    assert said(place) == ["begins at 0", "ends"]
    file.rmdir()
    assert place.run(script(place, COUNTER), ADOPT).code == 0
    assert said(place)[-2:] == ["begins at 6", "ends"]


def test_a_rollback_takes_the_file_back(place: Place) -> None:
    slow = COUNTER.replace("epoch=epoch)", "epoch=epoch)\n    time.sleep(0.1)")
    assert place.run(script(place, slow), [*ADOPT, "--keep-last", "100"]).code == 0
    target = next(m for m in manifests(place) if m["epoch"] == 2)
    assert place.pawl("rollback", str(target["sequence"])).code == 0

    ended = place.run(script(place, slow), [*ADOPT, "--keep-last", "100"])

    assert ended.code == 0, ended.output
    assert said(place)[-2:] == ["begins at 3", "ends"]


def test_a_copy_under_a_second_name_stays_what_it_was(place: Place) -> None:
    copies = COUNTER.replace(
        "epoch=epoch)", 'epoch=epoch)\n    if epoch == 3: shutil.copyfile("checkpoint.pth", "model_best.pth.tar")'
    )
    assert place.run(script(place, copies), ADOPT).code == 0
    best = place.path / "model_best.pth.tar"
    before = (best.read_bytes(), best.stat().st_mtime_ns, best.stat().st_ino)
    tear(place.path / "checkpoint.pth")

    assert place.run(script(place, copies), ADOPT).code == 0

    assert (best.read_bytes(), best.stat().st_mtime_ns, best.stat().st_ino) == before
    assert epoch_in(place, "model_best.pth.tar") == 3
    assert sorted(path.name for path in place.newest().iterdir()) == ["checkpoint.pth", "manifest.json"]


def test_of_a_series_the_newest_is_kept_and_the_others_stay_as_they_are(place: Place) -> None:
    body = """
import glob
names = sorted(glob.glob("epoch_*.pth"))
start = load(names[-1])["epoch"] + 1 if names else 0
say(f"begins at {start}")
for epoch in range(start, 4):
    save(f"epoch_{epoch:03}.pth", epoch=epoch)
"""
    options = ["--adopt", "epoch_*.pth"]
    assert place.run(script(place, body), options).code == 0
    assert sorted(path.name for path in place.newest().iterdir()) == ["epoch_003.pth", "manifest.json"]
    older = [(place.path / f"epoch_{n:03}.pth").stat() for n in range(3)]
    tear(place.path / "epoch_003.pth")

    ended = place.run(script(place, body), options)

    assert ended.code == 0, ended.output
    assert said(place) == ["begins at 0", "begins at 4"]
    assert epoch_in(place, "epoch_003.pth") == 3
    assert [(place.path / f"epoch_{n:03}.pth").stat().st_ino for n in range(3)] == [s.st_ino for s in older]
    assert place.pawl("checkpoints", "verify").code == 0


def test_several_files_are_kept_together(place: Place) -> None:
    body = """
if os.path.exists("a/c.pth"):
    say(f"begins with {load('a/c.pth')['epoch']} and {load('b/c.pth')['epoch']}")
    sys.exit()
os.makedirs("a")
os.makedirs("b")
for epoch in range(3):
    save("a/c.pth", epoch=epoch)
    save("b/c.pth", epoch=10 + epoch)
"""
    options = ["--adopt", "a/c.pth", "--adopt", "b/c.pth"]
    assert place.run(script(place, body), options).code == 0
    newest = manifests(place)[-1]
    assert [(file["name"], file["path"]) for file in newest["adopted"]] == [  # type: ignore[attr-defined]
        ("c.pth", "a/c.pth"),
        ("2-c.pth", "b/c.pth"),
    ]
    (place.path / "a" / "c.pth").unlink()
    tear(place.path / "b" / "c.pth")

    ended = place.run(script(place, body), options)

    assert ended.code == 0, ended.output
    assert said(place) == ["begins with 2 and 12"]
    exported = place.pawl("checkpoints", "export", "latest", "copy")
    assert exported.code == 0, exported.output
    assert sorted(path.name for path in (place.path / "copy").iterdir()) == ["2-c.pth", "c.pth", "manifest.json"]


def test_a_symlink_stays_one(place: Place, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (place.path / "checkpoint.pth").symlink_to(elsewhere / "c.pth")
    assert place.run(script(place, COUNTER), ADOPT).code == 0
    whole = (elsewhere / "c.pth").read_bytes()
    (elsewhere / "c.pth").unlink()

    ended = place.run(script(place, COUNTER), ADOPT)

    assert ended.code == 0, ended.output
    assert (place.path / "checkpoint.pth").readlink() == elsewhere / "c.pth"
    assert (elsewhere / "c.pth").read_bytes() == whole
    assert said(place)[-2:] == ["begins at 6", "ends"]


def test_a_file_of_before_zip_is_named_once_and_the_job_goes_on(place: Place) -> None:
    body = """
import torch
for epoch in range(3):
    torch.save({"epoch": epoch}, "checkpoint.pth", _use_new_zipfile_serialization=False)
    time.sleep(0.1)
"""
    ended = place.run(script(place, body), ADOPT)

    assert ended.code == 0, ended.output
    assert ended.output.count("'checkpoint.pth' is not kept") == 1
    assert "_use_new_zipfile_serialization=False, leave that out" in ended.output
    assert place.committed() == []
    again = place.run(script(place, body), ADOPT)
    assert again.code == 0, again.output
    assert aside(place.path) == []


# ---- arguments that depend on it ----


def test_arguments_are_added_when_there_is_something_to_resume_from_and_only_then(place: Place) -> None:
    body = """
say(" ".join(sys.argv[1:]))
save("checkpoint.pth", epoch=int(open("said").read().count("--")))
if not os.path.exists("done"):
    open("done", "w").close()
    os.kill(os.getpid(), 9)
"""
    options = [*ADOPT, "--on-resume", "--resume '{checkpoint}'", "--on-fresh", "--init 'from scratch'"]
    ended = place.run([*script(place, body), "--lr", "0.1"], options)

    assert ended.code == 0, ended.output
    assert said(place) == ["--lr 0.1 --init from scratch", f"--lr 0.1 --resume {place.path}/checkpoint.pth"]


def test_arguments_depend_on_ranks_that_attach_as_well(place: Place) -> None:
    command = ["sh", "-c", 'echo "$@" >>said; exec "$0" --steps 30', TRAINER]
    options = ["--on-resume", "--from {checkpoint}", "--on-fresh", "--new"]
    first = place.run(command, options)
    assert first.code == 0, first.output
    newest = place.newest()

    second = place.run(command, options)

    assert second.code == 0, second.output
    assert said(place) == ["--new", f"--from {newest}/rank-00000.pt"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--on-resume", "--from {chekpoint}"], "{checkpoint} as the only placeholder, found '{chekpoint}'"),
        (["--on-fresh", "{checkpoint}"], "on a fresh start there is none"),
        (["--on-resume", "--from 'x"], "the quote ' is not closed"),
        (["--adopt", "out/"], "expected the path of a file that the script saves"),
        # The helper puts "--" and the command behind it.
        (["--adopt"], "such as checkpoint.pth or runs/*.pth, found '--'"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(place: Place, options: list[str], why: str) -> None:
    ended = place.run(["true"], options)

    assert ended.code == 64, ended.output
    assert why in ended.output
    assert not place.checkpoints.exists()


# ---- the world ----


@pytest.fixture
def small_disk(place: Place) -> Iterator[Path]:
    path = place.path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(path)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("no tmpfs can be mounted here")
    yield path
    place.kill_what_runs()
    subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_costs_checkpoints_and_not_the_training(place: Place, small_disk: Path) -> None:
    body = COUNTER.replace("epoch=epoch)", "pad=50000, epoch=epoch)\n    time.sleep(0.1)").replace(
        'say("ends")', 'wait_for("go")\nsave("checkpoint.pth", epoch=6)'
    )
    daemon = place.start(script(place, body), [*ADOPT, "--checkpoint-dir", str(small_disk), "--keep-last", "100"])
    wait_for(lambda: "No space left on device" in place.output(), "the disk to be full")
    assert "Training goes on" in place.output()
    wait_for(lambda: epoch_in(place) == 5, "the training to go on")
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    (place.path / "go").touch()
    ended = place.end(daemon)

    assert ended.code == 0, ended.output
    newest = json.loads((small_disk / "latest" / "manifest.json").read_text())
    assert newest["epoch"] == 6
    assert place.pawl("checkpoints", "verify", "--checkpoint-dir", str(small_disk)).code == 0


def test_a_rank_that_attaches_is_told_that_it_needs_no_adoption(place: Place) -> None:
    ended = place.run([TRAINER, "--steps", "3"], [*ADOPT, "--max-restarts", "0"])

    assert ended.code != 0
    assert "leave out --adopt" in ended.output


def test_a_script_written_for_torchrun_runs_unchanged_and_is_adopted(place: Place) -> None:
    body = """
import torch, torch.distributed as dist
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
assert (rank, world) == (int(os.environ["LOCAL_RANK"]), 2)
value = torch.tensor([rank + 1.0])
dist.all_reduce(value)
start = 0
if os.path.exists("checkpoint.pth"):
    start = torch.load("checkpoint.pth")["epoch"] + 1
for epoch in range(start, 4):
    if rank == 0:
        say(f"epoch {epoch}, sum {value.item()}")
        torch.save({"epoch": epoch}, "checkpoint.pth")
    dist.barrier()
    if epoch == 1 and start == 0 and rank == 1:
        os.kill(os.getpid(), 9)
dist.destroy_process_group()
"""
    ended = place.run(script(place, body), [*ADOPT, "--ranks", "2"])

    assert ended.code == 0, ended.output
    assert said(place)[0] == "epoch 0, sum 3.0"
    assert said(place)[-1] == "epoch 3, sum 3.0"
    assert "resumes from checkpoint" in ended.output
    assert manifests(place)[-1]["world_size"] == 2


def test_jobs_of_a_service_keep_their_own_files_apart(place: Place) -> None:
    jobs = ""
    for name in ("a", "b"):
        (place.path / name).mkdir()
        (place.path / name / "script.py").write_text(SAVER + COUNTER)
        jobs += (
            f"  {name}:\n    command: [{PYTHON}, script.py]\n    working_directory: {name}\n"
            "    on_fresh: [--new]\n"
            f"    checkpoint: {{directory: kept/{name}, adopt: checkpoint.pth}}\n"
        )
    (place.path / "pawld.yaml").write_text(f"state_directory: .pawl\njobs:\n{jobs}")
    daemon = place.start(program=[PAWLD, "--config", str(place.path / "pawld.yaml")])

    def states() -> list[str]:
        done = place.pawl("status", "--json")
        return [job["state"] for job in json.loads(done.output)["jobs"]] if done.code == 0 else []

    wait_for(lambda: states() == ["finished", "finished"], "the end of both")
    daemon.send_signal(signal.SIGTERM)
    place.end(daemon)

    for name in ("a", "b"):
        kept = place.path / "kept" / name / "latest" / "checkpoint.pth"
        assert kept.read_bytes() == (place.path / name / "checkpoint.pth").read_bytes()


# ---- what the world brings: formats, names, damage of what is kept ----

# {"epoch": 2}, saved by PyTorch 2.15 after torch.serialization.set_crc32_options(False).
WITHOUT_CHECKSUMS = (
    "c-ozk%TB^T6oyX=l-mk}2`jg<Kp4u<%fgt{q?>LUSB4F#Fk)k&&`wM=G4UyU7GJ|Ra(Wq|wk3v>oXqC@=l^o%x2;MQpwWO_wV(%!(bA#L"
    "aQp0;Mi*uU^&!6R;J(J@$<|*y?F35<hqhIZ7oMkWmzs27z)XgZez11v{DlOe>u*e>U+7g-W9}uSUGCL|>&Pple&DRg-0|GiW=%HKH1vPl"
    "<x0UEKuo(Fpba$!@bF5BA1p~=8UoBbmr{@L9a7rmJDPCIcKjad=5+F;CawST_dtsd7)4?flE7sbd~+z{n7d2Uz$c*~Sw|XHG(}ZaMb_oX"
    "7-57ER*)u7F&?XUDo>F<;gtQfZA*w?Gn_nbtsMD2$3;3GolZtWV%?u;7RmYHx*7R*BG09*XaoQDc4ot!0EcloX5GvPKV#t$Vt&M4Ms_Ab"
    ">G#@}Bn{HJi^^4o{P6XK<oyzpm+9)!ds*F|+O}#^qLJeHWcCNd$iuP"
)


def test_a_file_that_was_saved_without_checksums_is_left_alone_and_said(place: Place) -> None:
    whole = zlib.decompress(base64.b85decode(WITHOUT_CHECKSUMS))
    (place.path / "whole").write_bytes(whole)
    body = """
say(f"finds {os.path.exists('checkpoint.pth')}")
shutil.copyfile("whole", "checkpoint.pth")
"""
    first = place.run(script(place, body), ADOPT)

    assert first.code == 0, first.output
    assert "'checkpoint.pth' is not kept: it was saved without its checksums" in first.output
    assert "leave that out. The job is supervised all the same" in first.output
    second = place.run(script(place, body), ADOPT)
    assert second.code == 0, second.output
    assert said(place) == ["finds False", "finds True"]
    assert aside(place.path) == []
    assert (place.path / "checkpoint.pth").read_bytes() == whole


def test_a_name_that_no_manifest_can_say_costs_no_checkpoint(place: Place) -> None:
    body = r"""
for name in (b"b.pth", b"a\xff.pth"):
    save(name.decode(errors="surrogateescape"), epoch=1)
"""
    ended = place.run(script(place, body), ["--adopt", "*.pth"])

    assert ended.code == 0, ended.output
    assert r"'a\xff.pth' is not kept: its name is no UTF-8" in ended.output
    assert manifests(place)[-1]["adopted"][0]["path"] == "b.pth"  # type: ignore[index]
    assert place.pawl("checkpoints", "verify").code == 0


def test_a_script_whose_saves_can_never_be_kept_is_told_once(place: Place) -> None:
    body = """
save("whole", epoch=1)
torn = open("whole", "rb").read()[:-30]
while not os.path.exists("go"):
    with open("checkpoint.pth", "wb") as file:
        file.write(torn)
    time.sleep(0.01)
"""
    daemon = place.start(script(place, body), ADOPT)
    wait_for(lambda: "in a row and not once could it be kept" in place.output(), "the warning")
    (place.path / "go").touch()
    ended = place.end(daemon)

    assert ended.code == 0, ended.output
    assert ended.output.count("in a row and not once could it be kept") == 1
    assert place.committed() == []


def test_what_rots_in_the_newest_checkpoint_costs_no_save_of_another_file(place: Place) -> None:
    body = """
save("optimizer.pth", epoch=1)
save("model.pth", epoch=1)
wait_for("go")
save("model.pth", epoch=2)
"""
    daemon = place.start(script(place, body), ["--adopt", "model.pth", "--adopt", "optimizer.pth"])
    wait_for((place.checkpoints / "latest" / "model.pth").exists, "a checkpoint of both")
    flip_a_byte(place.newest() / "optimizer.pth")
    (place.path / "go").touch()
    ended = place.end(daemon)

    assert ended.code == 0, ended.output
    assert "the newest checkpoint no longer has what it had" in ended.output
    newest = place.newest()
    assert (newest / "model.pth").read_bytes() == (place.path / "model.pth").read_bytes()
    assert (newest / "optimizer.pth").read_bytes() == (place.path / "optimizer.pth").read_bytes()


# ---- what is in the way ----


def test_what_was_rolled_back_is_set_aside_and_counts_again_once_it_is_touched(place: Place) -> None:
    slow = COUNTER.replace("epoch=epoch)", "epoch=epoch)\n    time.sleep(0.1)")
    assert place.run(script(place, slow), [*ADOPT, "--keep-last", "100"]).code == 0
    newest = (place.path / "checkpoint.pth").read_bytes()
    target = next(m for m in manifests(place) if m["epoch"] == 2)
    assert place.pawl("rollback", str(target["sequence"])).code == 0
    back = place.run(script(place, 'say(load("checkpoint.pth")["epoch"])'), ADOPT)
    assert back.code == 0, back.output
    assert "'checkpoint.pth' is of what was rolled back: set aside as" in back.output
    aside_path = place.path / ".checkpoint.pth.rolled-back-1"
    assert aside_path.read_bytes() == newest

    aside_path.rename(place.path / "checkpoint.pth")
    (place.path / "checkpoint.pth").touch()
    again = place.run(script(place, 'say(load("checkpoint.pth")["epoch"])'), ADOPT)

    assert again.code == 0, again.output
    assert said(place)[-2:] == ["2", "5"]
    assert aside(place.path) == []
    assert manifests(place)[-1]["epoch"] == 5


def test_a_name_that_no_file_ever_had_is_said_at_the_end(place: Place) -> None:
    ended = place.run(script(place, COUNTER), ["--adopt", "chekpoint.pth"])

    assert ended.code == 0, ended.output
    assert ended.output.count(f"no file 'chekpoint.pth' was ever seen in '{place.path}'") == 1
