"""What the world does to files that scripts save: arguments, full disks, names, formats, what is in the way."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import zlib
from pathlib import Path

import pytest
from adoption import ADOPT, COUNTER, PYTHON, SAVER, aside, epoch_in, flip_a_byte, said, script
from adoption import has_torch as has_torch
from conftest import PAWLD, Place, wait_for
from faults import TRAINER

DISK_SIZE = "300k"


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
    assert place.manifests()[-1]["world_size"] == 2


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
    assert place.manifests()[-1]["adopted"][0]["path"] == "b.pth"
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
    target = next(m for m in place.manifests() if m["epoch"] == 2)
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
    assert place.manifests()[-1]["epoch"] == 5


def test_a_name_that_no_file_ever_had_is_said_at_the_end(place: Place) -> None:
    ended = place.run(script(place, COUNTER), ["--adopt", "chekpoint.pth"])

    assert ended.code == 0, ended.output
    assert ended.output.count(f"no file 'chekpoint.pth' was ever seen in '{place.path}'") == 1


def test_another_trainings_checkpoints_are_neither_put_back_nor_removed(place: Place) -> None:
    attached = place.run([TRAINER, "--steps", "30"])
    assert attached.code == 0, attached.output
    before = place.committed()

    refused = place.run(script(place, COUNTER), ADOPT)
    assert refused.code == 65, refused.output
    assert "is of ranks that attach, and this job keeps the files that its script saves" in refused.output
    assert "Give this job a checkpoint directory of its own" in refused.output
    assert place.committed() == before
    assert not (place.path / "said").exists(), "nothing was started"

    own = ["--checkpoint-dir", str(place.path / "own")]
    assert place.run(script(place, COUNTER), [*ADOPT, *own]).code == 0
    kept = sorted(path.name for path in (place.path / "own").glob("0*"))
    renamed = COUNTER.replace("checkpoint.pth", "other.pth")
    refused = place.run(script(place, renamed), ["--adopt", "other.pth", *own])
    assert refused.code == 65, refused.output
    assert "holds 'checkpoint.pth', and this job keeps 'other.pth'" in refused.output
    assert sorted(path.name for path in (place.path / "own").glob("0*")) == kept


def test_a_name_that_no_file_ever_had_is_said_when_the_job_is_stopped_too(place: Place) -> None:
    daemon = place.start(script(place, "save('checkpoint.pth'); say('saved'); time.sleep(60)"), ["--adopt", "wrong.pth"])
    wait_for(lambda: (place.path / "said").exists(), "the script's save")
    daemon.send_signal(signal.SIGTERM)
    stopped = place.end(daemon)

    assert stopped.code == 75, stopped.output
    assert "no file 'wrong.pth' was ever seen" in stopped.output
