"""Killed, or failed by its disk, at every single system call: nothing durable is lost, nothing half-made is believed.

Every call is enumerated, none is sampled: each test runs the real code again and again, with the fault at call 1, 2, 3 …
below the checkpoint directory, the state directory or the journal, until a run ends without having met it. About 90 s
on two cores.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from conftest import Place, Reference, undisturbed
from faults import (
    KILLED,
    TRAINER,
    Driven,
    Fault,
    at_each_call,
    calls_in,
    copies_of,
    drive,
    sequences_in,
)

# ---- what the store does, in one process ----


@dataclass(frozen=True)
class Scenario:
    """What is in the directory, and what is done there."""

    before: str
    commands: str
    calls_min: int  # fewer: it has lost its object

    def make(self, directory: Path) -> None:
        if not self.before:
            return
        made = drive(directory, self.before)
        assert not made.all("error"), made.lines


# To add one: what is there, what is done, how many calls that is at least.
SCENARIOS = {
    "first start": Scenario("", "open choose:3", 4),
    "start": Scenario("open choose:9 commit:10:9 commit:20:9", "open choose:3", 3),
    "start that removes": Scenario("open commit:10:9 commit:20:9 commit:30:9", "open choose:1", 15),
    "first commit": Scenario("", "open choose:3 commit:10:3", 20),
    "commit": Scenario("open choose:9 commit:10:9", "open choose:3 commit:20:3", 20),
    "large commit": Scenario("open choose:9 commit:10:9", "open choose:3 commit:20:3:600000", 21),
    "retention": Scenario("open commit:10:9 commit:20:9 commit:30:9", "open choose:9 commit:40:1", 35),
    "two commits": Scenario("open choose:9 commit:10:9", "open choose:1 commit:20:1 commit:30:1", 50),
    "sweep": Scenario("open choose:9 commit:10:9", "open choose:9", 9),
    "quarantine": Scenario("open choose:9 commit:10:9 commit:20:9 commit:30:9", "open choose:9 commit:40:9", 25),
}


def arrange(name: str, directory: Path) -> None:
    SCENARIOS[name].make(directory)
    if name == "sweep":  # as a daemon that was killed has left it
        shutil.copytree(directory / "000001-step-10", directory / ".tmp-000002-step-20")
        (directory / ".tmp-000002-step-20" / "manifest.json").unlink()
        (directory / "latest.new").symlink_to("nowhere")
    if name == "quarantine":
        for checkpoint in ("000002-step-20", "000003-step-30"):
            file = directory / checkpoint / "rank-00001.pt"
            content = bytearray(file.read_bytes())
            content[2000] ^= 1
            file.write_bytes(content)


def validity(driven: Driven) -> dict[int, str]:
    return {int(pair.split("=")[0]): pair.split("=")[1] for pair in driven.all("ok verify ")[0].split()}


def assert_goes_on(directory: Path, durable: list[int], damaged: set[int], what: str) -> None:
    """A new process, on what the old one has left: the newest state is found, nothing is left over, all goes on."""
    used = sequences_in(directory)
    seen = validity(drive(directory, "verify")) if directory.exists() else {}
    assert {s for s, state in seen.items() if state != "valid"} <= damaged, f"{what}: a committed name lies: {seen}"

    after = drive(directory, "open choose:99 verify commit:90:99")

    assert not after.all("error") and not after.all("warning"), f"{what}: {after.text}"
    chosen = after.one("ok choose ").split()[0]
    valid = [s for s, state in seen.items() if state == "valid"]
    assert chosen == (str(max(valid)) if valid else "none"), f"{what}: {after.text}"
    assert not durable or int(chosen) >= max(durable), f"{what}: {max(durable)} was durable, {chosen} is resumed"
    assert set(validity(after)) == set(valid), what
    assert after.durable[0] > max([*used, *durable], default=0), f"{what}: a sequence is used twice"
    left = {path.name for path in directory.iterdir()} - {".lock", "latest", "quarantine", "abandoned"}
    assert not [name for name in left if not name[0].isdigit()], f"{what}: left over: {left}"
    assert (directory / "latest").readlink() == Path(f"{after.durable[0]:06}-step-90"), what
    there = {path.name for path in directory.rglob("*-step-*") if path.is_dir()}
    assert {s for s in damaged if any(name.startswith(f"{s:06}-") for name in there)} == damaged, f"{what}: lost"


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_kill_between_any_two_calls_loses_nothing_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    scenario = SCENARIOS[name]
    template = tmp_path / "template" / "checkpoints"
    template.parent.mkdir()
    arrange(name, template)
    durable_before = 1 if scenario.before else 0
    copy = copies_of(template, tmp_path)

    def killed_before(number: int) -> bool:
        directory = copy(number)
        run = drive(directory, scenario.commands, Fault(directory, number))
        damaged = {2, 3} if name == "quarantine" else set()
        durable = [*range(1, durable_before + 1), *run.durable]
        assert_goes_on(directory, durable, damaged, f"killed before call {number} ({run.calls[-1:]})")
        shutil.rmtree(directory.parent)
        return run.code == KILLED

    assert at_each_call(killed_before) >= scenario.calls_min


ROLLBACKS = {
    "open": ("open rollback:2", 0),
    "open choose:9": ("open choose:9 rollback:2", 0),
    # As after a kill: what the start before had to complete.
    "decided": ("open choose:9", 2),
}


@pytest.mark.parametrize("name", ROLLBACKS)
def test_a_kill_between_any_two_calls_of_a_rollback_leaves_the_state_before_or_after(tmp_path: Path, name: str) -> None:
    commands, decided = ROLLBACKS[name]
    template = tmp_path / "template" / "checkpoints"
    template.parent.mkdir()
    assert drive(template, "open commit:10:9 commit:20:9 commit:30:9 commit:40:9").durable == [1, 2, 3, 4]
    if decided:
        copy = copies_of(template, tmp_path)(0)
        calls = drive(copy, "open rollback:2", Fault(copy)).calls
        moved = next(call for call in calls if call.kind == "rename" and call.name == "000003-step-30")
        assert drive(template, "open rollback:2", Fault(template, moved.number, "kill-after")).code == KILLED
    copy_to = copies_of(template, tmp_path)
    numbers = set()

    def killed_before(number: int) -> bool:
        directory = copy_to(number)
        run = drive(directory, commands, Fault(directory, number))
        what = f"killed before call {number} ({run.calls[-1:]})"
        assert set(validity(drive(directory, "verify")).values()) == {"valid"}, what

        after = drive(directory, "open choose:99 verify commit:90:99")

        assert not after.all("error") and not after.all("warning"), f"{what}: {after.text}"
        chosen = int(after.one("ok choose ").split()[0])
        numbers.add(chosen)
        assert chosen in (2, 4), f"{what}: half rolled back: {after.text}"
        if decided or run.all("ok rollback ") or run.code != KILLED:
            assert chosen == 2, f"{what}: {after.text}"
        assert validity(after) == {sequence: "valid" for sequence in range(1, chosen + 1)}, f"{what}: {after.text}"
        assert after.durable == [5], f"{what}: a sequence is used twice"
        # Nothing is lost: what was newer is kept whole, with what verifies it.
        abandoned = directory / "abandoned"
        kept = sorted(path.name for path in abandoned.iterdir() if path.is_dir()) if abandoned.exists() else []
        assert kept == (["000003-step-30", "000004-step-40"] if chosen == 2 else []), f"{what}: {kept}"
        assert all((abandoned / name / "manifest.json").exists() for name in kept), what
        names = {path.name for path in directory.iterdir() if not path.name[0].isdigit()}
        assert names <= {".lock", "latest", "abandoned"}, f"{what}: left over: {names}"
        assert (directory / "latest").readlink() == Path("000005-step-90"), what
        shutil.rmtree(directory.parent)
        return run.code == KILLED

    assert at_each_call(killed_before) >= 10
    assert numbers == ({2} if decided else {2, 4})


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_a_call_of_a_rollback_that_fails_is_said_and_the_rollback_is_undone_or_completed(
    tmp_path: Path, error: str
) -> None:
    template = tmp_path / "template" / "checkpoints"
    template.parent.mkdir()
    drive(template, "open commit:10:9 commit:20:9 commit:30:9 commit:40:9")
    copy = copies_of(template, tmp_path)

    def failed_at(number: int) -> bool:
        directory = copy(number)
        run = drive(directory, "open rollback:2", Fault(directory, number, error))
        hit = [call for call in run.calls if call.number == number]
        what = f"{error} at {hit}: {run.text}"
        assert run.all("error") or run.all("warning") or run.all("ok rollback "), what

        after = drive(directory, "open choose:99 verify commit:90:99")

        assert not after.all("error") and not after.all("warning"), f"{what}: {after.text}"
        chosen = int(after.one("ok choose ").split()[0])
        assert chosen in (2, 4), f"{what}: half rolled back: {after.text}"
        assert chosen == 2 or run.all("error"), f"{what}: {after.text}"
        assert validity(after) == {sequence: "valid" for sequence in range(1, chosen + 1)}, what
        assert len([path for path in directory.rglob("*-step-*") if path.is_dir()]) == 5, f"{what}: lost"
        shutil.rmtree(directory.parent)
        return bool(hit)

    assert at_each_call(failed_at) >= 10


# ---- a disk that fails ----

# Of one commit: what went before, the commit that meets the fault, and one that does not.
ATTEMPT = "open choose:1 descriptors commit:20:1 verify commit:30:1 descriptors"
OPEN_AND_CHOOSE = 2 + 3  # .lock made and locked; latest linked anew


def attempt_with(directory: Path, fault: Fault) -> Driven:
    return drive(directory, ATTEMPT, fault)


@pytest.fixture(scope="module")
def one_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("one") / "checkpoints"
    assert drive(directory, "open choose:9 commit:10:9").durable == [1]
    return directory


@pytest.mark.parametrize("error", ["EIO", "ENOSPC", "EACCES", "EINTR", "after-EIO", "short"])
def test_a_call_of_a_commit_that_fails_costs_that_attempt_and_nothing_else(
    tmp_path: Path, one_checkpoint: Path, error: str
) -> None:
    copy = copies_of(one_checkpoint, tmp_path)
    outcomes: dict[str, int] = {"failed": 0, "durable": 0, "warned": 0}

    def failed_at(number: int) -> bool:
        directory = copy(number)
        at = OPEN_AND_CHOOSE + number
        run = attempt_with(directory, Fault(directory, at, error))
        hit = [call for call in run.calls if call.number == at]
        what = f"{error} at {hit}: {run.text}"
        second = [call for call in run.calls if ".tmp-000003-" in call.path]
        is_first_attempt = bool(hit) and (not second or at < second[0].number)
        if not is_first_attempt:
            return False

        # The second attempt is as if nothing had been, whatever became of the first.
        assert run.code == 0 and run.durable[-1] == 3, what
        before, after = run.all("ok descriptors ")
        assert before == after, f"descriptors leak: {what}"
        between = validity(run)
        assert set(between.values()) == {"valid"}, f"a committed name lies: {what}"
        failures = run.all("error commit ")
        if failures:
            outcomes["failed"] += 1
            assert run.durable == [3], what
            assert failures[0].startswith("cannot commit checkpoint 2 of job 'lm' in '"), what
            if error != "after-EIO" or hit[0].kind != "rename":
                assert hit[0].path in failures[0] or hit[0].name in failures[0], f"it does not say on what: {what}"
        else:
            assert run.durable == [2, 3] and 2 in between, what
            outcomes["warned" if run.all("warning commit ") else "durable"] += 1
        # Retention has left the last; the first attempt's is there only if it may be believed.
        assert_goes_on(directory, run.durable, set(), what)
        shutil.rmtree(directory.parent)
        return True

    calls = at_each_call(failed_at)

    print(outcomes)
    assert calls >= 26
    # Fourteen calls lead to the rename, which is the commit, and its sync; what fails behind it is a warning.
    if error in ("EIO", "ENOSPC", "EACCES"):
        assert outcomes["failed"] >= 16
    if error == "short":
        assert outcomes == {"failed": 0, "warned": 0, "durable": calls}


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_while_the_disk_keeps_failing_no_attempt_succeeds_and_the_checkpoint_before_stays(
    tmp_path: Path, one_checkpoint: Path, error: str
) -> None:
    copy = copies_of(one_checkpoint, tmp_path)

    def failed_from(number: int) -> bool:
        directory = copy(number)
        at = OPEN_AND_CHOOSE + number
        run = attempt_with(directory, Fault(directory, at, error, times=0))
        if not [call for call in run.calls if call.number == at]:
            return False
        what = f"{error} from call {at} on: {run.text}"
        assert run.code == 0 and len(run.all("ok commit")) + len(run.all("error commit")) == 2, what
        assert_goes_on(directory, [1, *run.durable] if not run.durable else run.durable, set(), what)
        shutil.rmtree(directory.parent)
        return True

    assert at_each_call(failed_from) >= 50


def test_a_sync_that_fails_once_and_then_succeeds_is_not_believed(tmp_path: Path, one_checkpoint: Path) -> None:
    counted = attempt_with(copies_of(one_checkpoint, tmp_path)(0), Fault(tmp_path / "0" / "checkpoints"))
    first_attempt = [call for call in counted.calls if "000002-step-20" in call.path and call.kind == "sync"]
    assert [call.name for call in first_attempt] == [
        "rank-00000.pt",
        "rank-00001.pt",
        "manifest.json",
        ".tmp-000002-step-20",
    ]

    for sync in first_attempt:
        directory = copies_of(one_checkpoint, tmp_path)(sync.number)
        run = attempt_with(directory, Fault(directory, sync.number, "EIO"))

        failed = next(call for call in run.calls if call.result == "EIO")
        later = [call for call in run.calls if call.number > failed.number]
        assert failed.path == sync.path.replace("/0/", f"/{sync.number}/")
        # Nothing of that attempt is written, synced or renamed again: it is only removed.
        of_attempt = [call for call in later if ".tmp-000002-" in call.path]
        assert {call.kind for call in of_attempt} <= {"unlink", "rmdir"}, of_attempt
        assert not (directory / "000002-step-20").exists()
        # And its bytes are written anew, under another name.
        assert [c.name for c in later if ".tmp-000003-" in c.path and c.kind == "create"] == [
            "rank-00000.pt",
            "rank-00001.pt",
            "manifest.json",
        ]
        assert run.durable == [3]


def test_a_sync_of_the_parent_that_fails_does_not_report_the_checkpoint_as_durable(
    tmp_path: Path, one_checkpoint: Path
) -> None:
    counted = attempt_with(copies_of(one_checkpoint, tmp_path)(0), Fault(tmp_path / "0" / "checkpoints"))
    renames = [call for call in counted.calls if call.kind == "rename" and call.name == ".tmp-000002-step-20"]
    sync = counted.calls[renames[0].number]
    assert (sync.kind, sync.name) == ("sync", "checkpoints")
    directory = copies_of(one_checkpoint, tmp_path)(1)

    run = attempt_with(directory, Fault(directory, sync.number, "EIO"))

    assert run.durable == [3]
    assert "sync directory" in run.one("error commit ")


# ---- the daemon ----

LAST_STEP = 40
OPTIONS = ["--every-steps", "10", "--keep-last", "1"]


def tiny(place: Place) -> list[str]:
    files = ["--losses", str(place.path / "losses"), "--weights", str(place.path / "weights")]
    return place.alone([TRAINER, "--steps", str(LAST_STEP), *files])


@pytest.fixture(scope="module")
def tiny_reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    place = Place(tmp_path_factory.mktemp("tiny_reference"))
    return undisturbed(place, tiny(place), LAST_STEP)


@pytest.fixture(scope="module")
def tiny_stopped(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A run whose daemon was killed in its second commit."""
    place = Place(tmp_path_factory.mktemp("tiny_stopped"))
    crashed = place.run(tiny(place), OPTIONS, environment={"PAWL_CRASH_POINT": "commit: manifest synced#2"})
    assert crashed.code == KILLED, crashed.output
    return place


def durable_in(output: str) -> list[tuple[int, int]]:
    """(sequence, step) of each checkpoint that was reported."""
    found = []
    for line in output.splitlines():
        words = line.split()
        if "is durable (" in line:
            at = words.index("checkpoint")
            found.append((int(words[at + 1]), int(words[at + 4])))
    return found


def assert_ends_right(place: Place, durable: list[tuple[int, int]], reference: Reference, what: str) -> None:
    verified = place.pawl("checkpoints", "verify") if place.checkpoints.exists() else None
    assert verified is None or verified.code in (0, 66), f"{what}: {verified.output}"
    before = place.committed() if place.checkpoints.exists() else []

    ended = place.run(tiny(place), OPTIONS)

    said = f"{what}: {ended.output}"
    assert ended.code == 0, said
    assert "journal was damaged" not in ended.output, said
    if before:
        newest = int(before[-1].split("-")[0])
        assert newest >= max((sequence for sequence, _ in durable), default=0), said
        assert f"resumes from checkpoint {newest} " in ended.output, said
    else:
        assert not durable, said
    place.assert_never_two_at_once()
    place.assert_equal_to(reference)
    place.assert_ended_with_the_file_of(reference)
    assert place.committed() == [place.newest().name], said
    names = {path.name for path in place.checkpoints.iterdir()}
    assert names == {".lock", "latest", place.newest().name}, f"left over: {said}"
    assert {path.name for path in place.state.iterdir()} == {"checkpoints", "jobs", "journal", "lock", "logs"}, said
    assert not list((place.state / "jobs").iterdir()), said


def enumerate_daemon(tmp_path: Path, template: Place | None, fault: Fault, reference: Reference) -> int:
    """A daemon that is killed before call number 1, 2, 3 …, each time followed by one that is not."""

    def killed_before(number: int) -> bool:
        place = Place(tmp_path / str(number))
        durable: list[tuple[int, int]] = []
        if template is None:
            place.path.mkdir()
        else:
            ignored = shutil.ignore_patterns("*.sock", "log-*")
            shutil.copytree(template.path, place.path, symlinks=True, ignore=ignored)
            durable = durable_in(template.output())
        here = replace(
            fault,
            below=place.path / fault.below,
            at=number,
            besides=place.path / fault.besides if fault.besides else None,
        )
        log = place.path / "calls"
        try:
            crashed = place.run(tiny(place), OPTIONS, environment=here.environment(log))
            what = f"killed before call {number} ({calls_in(log)[-1:]})"
            assert crashed.code in (0, KILLED), f"{what}: {crashed.output}"
            if crashed.code == KILLED:
                assert_ends_right(place, durable + durable_in(crashed.output), reference, what)
        finally:
            place.kill_what_runs()
        shutil.rmtree(place.path)
        return crashed.code == KILLED

    return at_each_call(killed_before)


STATE = Path(".pawl")
JOURNAL = STATE / "journal"


def test_a_daemon_killed_between_any_two_calls_of_a_first_run_resumes_and_ends_right(
    tmp_path: Path, tiny_reference: Reference
) -> None:
    assert enumerate_daemon(tmp_path, None, Fault(STATE, besides=JOURNAL), tiny_reference) >= 100


def test_a_daemon_killed_between_any_two_calls_of_a_resumed_run_resumes_and_ends_right(
    tmp_path: Path, tiny_stopped: Place, tiny_reference: Reference
) -> None:
    assert enumerate_daemon(tmp_path, tiny_stopped, Fault(STATE, besides=JOURNAL), tiny_reference) >= 80


def test_a_daemon_killed_between_any_two_calls_on_its_journal_resumes_and_ends_right(
    tmp_path: Path, tiny_reference: Reference
) -> None:
    assert enumerate_daemon(tmp_path, None, Fault(JOURNAL), tiny_reference) >= 100


def test_the_library_that_makes_faults_lets_a_process_alone_that_has_none(tmp_path: Path) -> None:
    fault = Fault(tmp_path / "elsewhere", 1, "kill-before")
    environment = {**fault.environment(tmp_path / "calls"), "PATH": "/usr/bin:/bin"}

    script = f"echo text > {tmp_path}/file; env"
    done = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, check=True)

    assert (tmp_path / "file").read_text() == "text\n"
    assert "PAWL_FAULTS" not in done.stdout and "LD_PRELOAD" not in done.stdout, "children must not inherit it"


# ---- the daemon, and a disk that fails once ----

EXIT_DISK = 74


@pytest.mark.parametrize(
    ("error", "below", "besides", "times"),
    [
        ("EIO", STATE, JOURNAL, 1),
        ("EIO", JOURNAL, None, 1),
        ("EIO", JOURNAL, None, 0),
        ("ENOSPC", STATE, JOURNAL, 1),
        ("ENOSPC", JOURNAL, None, 1),
        ("ENOSPC", JOURNAL, None, 0),
    ],
    ids=["once", "journal-once", "journal-from-then-on", "full-once", "journal-full-once", "journal-full-from-then-on"],
)
def test_a_call_of_the_daemon_that_fails_does_not_end_or_change_the_training(
    tmp_path: Path, tiny_reference: Reference, error: str, below: Path, besides: Path | None, times: int
) -> None:
    words = {"EIO": "Input/output error", "ENOSPC": "No space left on device"}[error]
    outcomes: dict[int, int] = {}

    def failed_at(number: int) -> bool:
        place = Place(tmp_path / str(number))
        place.path.mkdir()
        log = place.path / "calls"
        exception = place.path / besides if besides else None
        fault = Fault(place.path / below, number, error, times=times, besides=exception)
        try:
            ended = place.run(tiny(place), OPTIONS, environment=fault.environment(log))
            hit = [call for call in calls_in(log) if call.number == number]
            what = f"{error} at {hit}: {ended.code}: {ended.output}"
            outcomes[ended.code] = outcomes.get(ended.code, 0) + 1
            if ended.code == 0:
                place.assert_equal_to(reference=tiny_reference)
                place.assert_ended_with_the_file_of(tiny_reference)
            else:
                # Nothing was begun: it says why, and the next start is as the first.
                assert hit and ended.code == EXIT_DISK, what
                assert not (place.path / "losses").exists(), what
                assert words in ended.output, what
                assert_ends_right(place, [], tiny_reference, what)
        finally:
            place.kill_what_runs()
        shutil.rmtree(place.path)
        return bool(hit)

    # Some wait for five seconds until the final checkpoint is tried again.
    assert at_each_call(failed_at, at_once=8) >= 90
    # Without its state there is no daemon; without a journal there is no history, and nothing else.
    assert set(outcomes) == ({0} if below == JOURNAL else {0, EXIT_DISK}), outcomes
    assert outcomes[0] >= 40, outcomes


# ---- a disk that can't be read ----


@pytest.mark.parametrize("error", ["EIO", "EINTR", "EMFILE", "EACCES"])
def test_a_read_that_fails_once_at_a_start_sets_no_valid_checkpoint_aside(tmp_path: Path, error: str) -> None:
    template = tmp_path / "template" / "checkpoints"
    template.parent.mkdir()
    drive(template, "open commit:10:9 commit:20:9 commit:30:9:600000")
    copy = copies_of(template, tmp_path)

    def failed_at(number: int) -> bool:
        directory = copy(number)
        run = drive(directory, "open choose:9", Fault(directory, number, error, kinds="open,read"))
        hit = [call for call in run.calls if call.number == number]
        what = f"{error} at {hit}: {run.text}"
        assert not (directory / "quarantine").exists(), what
        # Nothing is begun without knowing what is there; nor is that taken for damage.
        chosen = run.all("ok choose ")
        assert chosen == ["3 30"] or (not chosen and hit[0].path in run.one("error choose ")), what
        assert chosen or error in ("EMFILE", "EACCES") or "list directory" in run.text, what
        assert_goes_on(directory, [1, 2, 3], set(), what)
        shutil.rmtree(directory.parent)
        return bool(hit)

    assert at_each_call(failed_at) >= 8
