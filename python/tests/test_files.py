"""pawl.save and pawl.load: torch's file, atomic and verified."""

import concurrent.futures
import io
import json
import os
import signal
import stat
import subprocess
import sys
import zipfile

import pytest
import torch

import pawl
from pawl._files import verify

IS_TORCH_2 = int(torch.__version__.split(".")[0]) >= 2


def state():
    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    return {"epoch": 3, "model_state_dict": net.state_dict(), "optimizer_state_dict": optimizer.state_dict()}


def same(left, right):
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right


def test_torch_load_reads_what_pawl_saves(tmp_path):
    pawl.save(state(), tmp_path / "checkpoint.pth")

    assert same(torch.load(tmp_path / "checkpoint.pth"), state())
    with zipfile.ZipFile(tmp_path / "checkpoint.pth") as archive:
        assert archive.testzip() is None


@pytest.mark.skipif(not IS_TORCH_2, reason="1.13 has no mmap, and its weights_only knows no floats")
def test_torch_load_reads_it_with_weights_only_and_mmap(tmp_path):
    pawl.save(state(), tmp_path / "checkpoint.pth")

    assert same(torch.load(tmp_path / "checkpoint.pth", weights_only=True, mmap=True), state())


def test_pawl_load_reads_what_torch_saves(tmp_path):
    torch.save(state(), tmp_path / "checkpoint.pth")

    assert same(pawl.load(tmp_path / "checkpoint.pth", weights_only=IS_TORCH_2), state())


def test_every_dtype_and_every_view_comes_back(tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    names = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
    names += ["complex64", "complex128"]
    if IS_TORCH_2:
        names += ["uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"]
    value = {
        "dtypes": {name: torch.ones(2, 2).to(getattr(torch, name)) for name in names},
        "base": base,
        "view": base.t()[1:, ::2],
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "plain": [1, 2.5, None, True, "text", (1, 2), {"a": b"bytes"}],
    }

    pawl.save(value, tmp_path / "all.pt")
    loaded = torch.load(tmp_path / "all.pt", **({"weights_only": False} if IS_TORCH_2 else {}))

    for name in names:
        mine, theirs = loaded["dtypes"][name], value["dtypes"][name]
        assert mine.dtype == theirs.dtype
        assert bytes(mine.untyped_storage() if IS_TORCH_2 else mine.storage().untyped()) == bytes(
            theirs.untyped_storage() if IS_TORCH_2 else theirs.storage().untyped()
        ), name
    assert torch.equal(loaded["view"], value["view"]) and loaded["view"].stride() == value["view"].stride()
    loaded["base"][1, 0] = 77
    assert 77 in loaded["view"].flatten().tolist() or 77 in loaded["base"].flatten().tolist()
    assert loaded["plain"] == value["plain"]
    assert isinstance(loaded["parameter"], torch.nn.Parameter)


def flip(path, record):
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = next(info for info in archive.infolist() if info.filename.endswith(record))
        name_bytes, extra_bytes = (
            int.from_bytes(content[info.header_offset + at : info.header_offset + at + 2], "little") for at in (26, 28)
        )
    content[info.header_offset + 30 + name_bytes + extra_bytes] ^= 0x40
    path.write_bytes(content)


def test_a_flipped_bit_is_found_and_named(tmp_path):
    path = tmp_path / "checkpoint.pth"
    pawl.save(state(), path)
    assert verify(path) == "xxh3"
    flip(path, "data/0")

    with pytest.raises(pawl.PawlError, match=r"is damaged: bytes 0 to \d+, record archive/data/0") as caught:
        pawl.load(path)

    assert caught.value.code == -3


def test_a_flipped_bit_in_torchs_own_file_is_found_too(tmp_path):
    path = tmp_path / "checkpoint.pth"
    torch.save(state(), path)
    flip(path, "data/1")

    with pytest.raises(pawl.PawlError, match="CRC-32 of record checkpoint/data/1 does not hold"):
        pawl.load(path)


def test_a_sidecar_of_another_save_refuses_no_good_file(tmp_path):
    path = tmp_path / "checkpoint.pth"
    pawl.save(state(), path)
    sidecar = tmp_path / "checkpoint.pth.pawl"
    said = json.loads(sidecar.read_text())
    said["xxh3_128"] = ["0" * 32]
    sidecar.write_text(json.dumps(said))

    assert verify(path) == "crc32"


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "checkpoint.pth"
    pawl.save(state(), path)
    path.write_bytes(path.read_bytes()[:-100])

    with pytest.raises(pawl.PawlError):
        pawl.load(path)


def test_a_missing_file_is_a_file_not_found_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        pawl.load(tmp_path / "none.pth")


def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "checkpoint.pth"
    pawl.save(state(), path)
    before = path.read_bytes()

    with pytest.raises(Exception, match="pickle"):
        pawl.save({"model": lambda: 0}, path)

    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.pth", "checkpoint.pth.pawl"]


def test_a_link_is_followed_by_both(tmp_path):
    pawl.save(state(), tmp_path / "epoch-3.pth")
    (tmp_path / "latest.pth").symlink_to("epoch-3.pth")
    assert pawl.load(tmp_path / "latest.pth", weights_only=IS_TORCH_2).keys() == state().keys()

    flip(tmp_path / "epoch-3.pth", "data/0")
    with pytest.raises(pawl.PawlError, match=r"latest\.pth' is damaged: bytes"):  # by the file's sidecar
        pawl.load(tmp_path / "latest.pth")


def test_threads_that_save_one_file_leave_one_of_theirs_whole(tmp_path):
    path = tmp_path / "checkpoint.pth"

    def save(number):
        for _ in range(10):
            pawl.save({"number": number, "weights": torch.full((1000,), float(number))}, path)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(save, range(4)))

    loaded = pawl.load(path)
    assert torch.all(loaded["weights"] == float(loaded["number"]))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["checkpoint.pth", "checkpoint.pth.pawl"]


def test_it_takes_what_torch_takes(tmp_path):
    path = tmp_path / "checkpoint.pth"
    pawl.save(obj=state(), f=os.fsencode(path), pickle_protocol=2, _use_new_zipfile_serialization=True)
    assert pawl.load(f=os.fsencode(path), map_location="cpu", weights_only=IS_TORCH_2).keys() == state().keys()
    with pytest.raises(
        pawl.PawlError, match=r"with pickle_protocol=4: pawl writes torch's own format\. Use torch\.save"
    ):
        pawl.save(state(), path, pickle_protocol=4)
    with pytest.raises(TypeError, match="unexpected keyword argument 'compress'"):
        pawl.save(state(), path, compress=True)

    buffer = io.BytesIO()
    pawl.save(state(), buffer)
    buffer.seek(0)
    assert pawl.load(buffer, weights_only=IS_TORCH_2).keys() == state().keys()
    with (tmp_path / "open.pth").open("wb") as file:
        pawl.save(state(), file)
    with (tmp_path / "open.pth").open("rb") as file:
        assert pawl.load(file, weights_only=IS_TORCH_2).keys() == state().keys()


def test_a_directory_is_refused_by_name(tmp_path):
    directory = tmp_path / "model"
    directory.mkdir()
    with pytest.raises(pawl.PawlError, match=f"cannot save '{directory}': it is a directory"):
        pawl.save(state(), directory)
    assert [one.name for one in tmp_path.iterdir()] == ["model"], "nor is anything put beside it"


def test_what_is_no_file_is_written_to_and_not_replaced(tmp_path):
    """A device: /dev/null, say. Here a pipe, which any user can make and nobody misses."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", str(pipe)], stdout=(tmp_path / "came").open("wb"))

    pawl.save(state(), pipe)

    assert reader.wait(20) == 0
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert pawl.load(tmp_path / "came", weights_only=IS_TORCH_2).keys() == state().keys()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["came", "pipe"]


SAVES_FOR_EVER = """
import sys, torch, pawl
for version in range(1, 1000000):
    pawl.save({"version": version, "weights": torch.full((100000,), float(version))}, sys.argv[1])
    print(version, flush=True)
"""


def test_a_save_that_is_killed_leaves_the_old_file_or_the_new_one(tmp_path):
    path = tmp_path / "checkpoint.pth"
    for lines in (1, 3, 6):
        process = subprocess.Popen([sys.executable, "-c", SAVES_FOR_EVER, str(path)], stdout=subprocess.PIPE, text=True)
        for _ in range(lines):
            said = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        rest = process.stdout.read().split()
        newest = int(rest[-1]) if rest else said

        loaded = pawl.load(path)

        assert loaded["version"] in (newest, newest + 1)
        assert torch.all(loaded["weights"] == float(loaded["version"]))


def test_import_pawl_imports_no_torch():
    done = subprocess.run(
        [sys.executable, "-c", "import sys, pawl; print('torch' in sys.modules or 'numpy' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"
