"""What pawl writes, PyTorch, unzip and Python's zipfile read; what torch.save writes, pawl reads.

Needs PyTorch, and the tools built from write_sample.cc and interop_tool.cc, named by PAWL_WRITE_SAMPLE and
PAWL_INTEROP_TOOL. Run under each PyTorch. What each type of value comes to: interop_table_test.py.
"""

import collections
import os
import pathlib
import shutil
import subprocess
import zipfile

import pytest

torch = pytest.importorskip("torch")

TOOL = os.environ.get("PAWL_WRITE_SAMPLE", "")
INTEROP_TOOL = os.environ.get("PAWL_INTEROP_TOOL", "")
pytestmark = pytest.mark.skipif(not (TOOL and INTEROP_TOOL), reason="PAWL_WRITE_SAMPLE, PAWL_INTEROP_TOOL name no tool")

IS_2 = int(torch.__version__.split(".")[0]) >= 2
HAS_WEIGHTS_ONLY_FLOATS = IS_2
GIB = 2**30


def write_sample(path: pathlib.Path, *options: str) -> pathlib.Path:
    subprocess.run([TOOL, *options, str(path)], check=True)
    return path


def load(path: pathlib.Path, weights_only: bool):
    return torch.load(str(path), map_location="cpu", weights_only=weights_only)


def dump(path: pathlib.Path) -> dict:
    done = subprocess.run([TOOL, "--dump", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # A literal but for floats, which are written as float('inf').
    return eval(done.stdout, {"__builtins__": {}, "float": float})


def counting(elements: int, modulus: int = 4) -> torch.Tensor:
    return torch.arange(elements) % modulus


def check_sample(loaded: dict) -> None:
    assert type(loaded) is dict
    assert type(loaded["dtypes"]) is collections.OrderedDict
    for name, tensor in loaded["dtypes"].items():
        assert tensor.dtype is getattr(torch, name)
        expected = counting(6, 2 if name == "bool" else 4).reshape(2, 3).to(tensor.dtype)
        assert torch.equal(tensor, expected), name
    assert len(loaded["dtypes"]) == 12
    assert loaded["first"].tolist() == [0, 1, 2, 3]
    assert loaded["second"].tolist() == [[2, 2], [3, 3]]
    assert loaded["second"].stride() == (1, 4)
    assert torch.equal(loaded["large"].detach(), counting(100000).reshape(100, 1000).float())
    assert loaded["large"].requires_grad and not loaded["first"].requires_grad
    assert loaded["scalar"].shape == () and loaded["scalar"].item() == 3
    assert loaded["empty"].shape == (0,)
    integers = [0, 255, 256, 65536, -1, 2**31, -(2**63), 2**63 - 1]
    assert loaded["integers"] == integers
    assert loaded["tuples"] == ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4))
    assert loaded["nothing"] is None
    assert loaded["flags"] == [True, False]
    assert loaded["text"] == "Grüß dich"
    assert loaded["by_integer"] == {0: {}, 1: []}


def test_torch_load_reads_what_pawl_writes(tmp_path):
    sample = write_sample(tmp_path / "sample.pt")

    loaded = load(sample, weights_only=False)

    check_sample(loaded)
    assert loaded["floats"] == (0.1, 0.0, 1e300, float("inf"))
    assert str(loaded["floats"][1]) == "-0.0"


def test_torch_load_with_weights_only_reads_what_pawl_writes(tmp_path):
    # PyTorch 1.13's restricted unpickler has no floats, in its own files neither.
    options = [] if HAS_WEIGHTS_ONLY_FLOATS else ["--without-floats"]
    sample = write_sample(tmp_path / "sample.pt", *options)

    check_sample(load(sample, weights_only=True))


def test_views_of_one_storage_stay_views_of_one_storage(tmp_path):
    loaded = load(write_sample(tmp_path / "sample.pt"), weights_only=False)

    loaded["first"][2] = 77

    assert loaded["second"][0, 0].item() == 77


def test_torch_load_reads_an_image_whose_crcs_are_not_computed_yet(tmp_path):
    sample = write_sample(tmp_path / "sample.pt", "--without-crcs")

    check_sample(load(sample, weights_only=False))


@pytest.mark.skipif(shutil.which("unzip") is None, reason="no unzip")
def test_unzip_verifies_what_pawl_writes(tmp_path):
    sample = write_sample(tmp_path / "sample.pt")

    done = subprocess.run(["unzip", "-t", str(sample)], capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "No errors detected" in done.stdout
    assert "warning" not in (done.stdout + done.stderr).lower()


def test_zipfile_verifies_what_pawl_writes(tmp_path):
    with zipfile.ZipFile(write_sample(tmp_path / "sample.pt")) as archive:
        assert archive.testzip() is None
        assert archive.read("archive/version") == b"3\n"
        assert archive.read("archive/byteorder") == b"little"
        assert archive.namelist()[0] == "archive/data.pkl"


def same(dumped: dict, node, value) -> bool:
    """Whether the dumped node says what `value` is, to the last bit of every tensor."""
    if isinstance(value, torch.Tensor):
        dtype, location, hexadecimal = dumped["storages"][node["tensor"]]
        assert (getattr(torch, dtype), location) == (value.dtype, "cpu")
        flat = torch.frombuffer(bytearray.fromhex(hexadecimal) or bytearray(16), dtype=value.dtype)
        mine = torch.as_strided(flat, node["shape"], node["stride"], node["offset"])
        assert node["grad"] == value.requires_grad
        assert mine.shape == value.shape and mine.stride() == value.stride()
        return mine.numel() == 0 or bool(torch.equal(mine, value.detach()))
    if isinstance(value, dict):
        return list(node) == list(value) and all(same(dumped, node[k], value[k]) for k in value)
    if isinstance(value, (list, tuple)):
        return (
            type(node) is type(value)
            and len(node) == len(value)
            and all(same(dumped, left, right) for left, right in zip(node, value))
        )
    return type(node) is type(value) and node == value


def trained(make_optimizer):
    torch.manual_seed(1)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.Flatten(), torch.nn.Linear(108, 2)
    )
    optimizer = make_optimizer(net.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2)
    for _ in range(3):
        optimizer.zero_grad()
        net(torch.randn(4, 1, 8, 8)).square().mean().backward()
        optimizer.step()
        scheduler.step()
    return net, optimizer, scheduler


@pytest.mark.parametrize(
    "make_optimizer",
    [
        lambda parameters: torch.optim.Adam(parameters, lr=0.01),
        lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    ],
    ids=["Adam", "SGD"],
)
def test_pawl_reads_the_state_of_a_training_run(tmp_path, make_optimizer):
    net, optimizer, scheduler = trained(make_optimizer)
    state = {
        "model": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "rng": torch.get_rng_state(),
        "epoch": 3,
        "best": 0.25,
        "parameter": torch.nn.Parameter(torch.ones(2, 3)),
        "view": torch.arange(12.0).reshape(3, 4).t()[1:],
        "empty": torch.zeros(0, 3),
    }
    torch.save(state, tmp_path / "state.pt")

    dumped = dump(tmp_path / "state.pt")

    assert same(dumped, dumped["value"], state)


def test_pawl_reads_tied_weights_as_one_storage(tmp_path):
    weight = torch.ones(4)
    torch.save([weight, weight[1:], weight], tmp_path / "tied.pt")

    dumped = dump(tmp_path / "tied.pt")

    assert [node["tensor"] for node in dumped["value"]] == [0, 0, 0]
    assert len(dumped["storages"]) == 1


def test_pawl_reads_its_own_files(tmp_path):
    sample = write_sample(tmp_path / "sample.pt")

    dumped = dump(sample)

    assert same(dumped, dumped["value"], load(sample, weights_only=False))


def test_pawl_reads_a_file_that_was_zipped_again_without_data_descriptors(tmp_path):
    torch.save({"weight": torch.ones(3)}, tmp_path / "state.pt")
    with zipfile.ZipFile(tmp_path / "state.pt") as source:
        with zipfile.ZipFile(tmp_path / "again.pt", "w") as target:
            for name in source.namelist():
                target.writestr(name, source.read(name))

    dumped = dump(tmp_path / "again.pt")

    assert same(dumped, dumped["value"], {"weight": torch.ones(3)})


def refusal_of(path: pathlib.Path) -> str:
    done = subprocess.run([TOOL, "--dump", str(path)], capture_output=True, text=True)
    assert done.returncode == 1
    return done.stderr


def test_pawl_refuses_a_pickled_object_by_its_name(tmp_path):
    torch.save({"path": pathlib.PurePosixPath("/")}, tmp_path / "object.pt")

    assert "pathlib.PurePosixPath" in refusal_of(tmp_path / "object.pt")


def test_pawl_refuses_legacy_files_with_advice(tmp_path):
    torch.save({"a": 1}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)

    assert "torch.save" in refusal_of(tmp_path / "old.pt")


def test_pawl_finds_the_flipped_bit_that_torch_load_does_not(tmp_path):
    path = tmp_path / "state.pt"
    torch.save({"weight": torch.full((1000,), 2.0)}, path)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo("state/data/0").header_offset
    content[offset + 1000] ^= 0x40
    path.write_bytes(content)

    assert "is damaged" in refusal_of(path)


def interop_tool(*arguments) -> str:
    return subprocess.run(
        [INTEROP_TOOL, *map(str, arguments)], check=True, capture_output=True, text=True
    ).stdout


def test_map_location_brings_a_tensor_of_a_gpu_to_the_cpu(tmp_path):
    torch.save({"weight": torch.arange(4.0)}, tmp_path / "cpu.pt")
    interop_tool("--location", "cuda:0", tmp_path / "cpu.pt", tmp_path / "cuda.pt")

    for weights_only in (False, True):
        loaded = load(tmp_path / "cuda.pt", weights_only=weights_only)

        assert loaded["weight"].device.type == "cpu" and loaded["weight"].tolist() == [0, 1, 2, 3]
    assert zipfile.ZipFile(tmp_path / "cuda.pt").read("archive/data.pkl").count(b"cuda:0") == 1


@pytest.mark.parametrize("name", ["new\nline", "we'ird \"name\"", "esc\x1b", "gr\u00fc\u00df", "a.b.c", "\udcff\udcfe"])
def test_pawl_reads_files_of_any_name(tmp_path, name):
    # The archive's root folder is named for the file. PyTorch 1.13 aborts in names that are no UTF-8.
    path = tmp_path / (name + ".pt" if IS_2 or not name.startswith("\udcff") else "other.pt")
    torch.save({"weight": torch.ones(2), name: 1}, str(path))

    done = subprocess.run([os.fsencode(INTEROP_TOOL), b"--describe", os.fsencode(path)], capture_output=True)

    assert done.returncode == 0, done.stderr
    assert name.encode("utf-8", "surrogatepass").hex() in done.stdout.decode()


def test_a_tensor_beyond_4_gib_is_where_the_zip_says(tmp_path):
    # Sparse: neither the disk nor the memory holds five gibibytes.
    path = tmp_path / "large.pt"
    interop_tool("--sparse", 5 * GIB, path)
    assert path.stat().st_blocks * 512 < GIB

    with zipfile.ZipFile(path) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
    places = interop_tool("--places", path).splitlines()

    assert sizes["archive/data/0"] == 5 * GIB and sizes["archive/data/1"] == 1
    assert places[0].split()[::2] == ["large", str(5 * GIB)]


@pytest.mark.skipif(not IS_2, reason="PyTorch 1.13 has no mmap: it would read five gibibytes into memory")
def test_torch_load_maps_a_tensor_beyond_4_gib(tmp_path):
    path = tmp_path / "large.pt"
    interop_tool("--sparse", 5 * GIB, path)

    loaded = torch.load(str(path), mmap=True, weights_only=True)

    assert loaded["large"].shape == (5 * GIB,)
    assert loaded["large"][[0, 1, -2, -1]].tolist() == [1, 0, 0, 1]
    assert loaded["after"].tolist() == [1]


@pytest.mark.skipif(not IS_2, reason="PyTorch 1.13 has no skip_data: it would write five gibibytes")
def test_pawl_reads_a_tensor_beyond_4_gib(tmp_path):
    path = tmp_path / "large.pt"
    with torch.serialization.skip_data():
        torch.save({"large": torch.empty(5 * GIB, dtype=torch.uint8), "after": torch.empty(7)}, path)
    assert path.stat().st_blocks * 512 < GIB

    places = [line.split() for line in interop_tool("--places", path).splitlines()]

    assert [(name, int(size)) for name, _, size in places] == [("large", 5 * GIB), ("after", 28)]
    assert int(places[1][1]) > 5 * GIB


def test_pawl_reads_a_hundred_thousand_tensors(tmp_path):
    weights = torch.arange(100000.0)
    state = {f"layer.{i}": weights[i : i + 1] for i in range(100000)}
    torch.save(state, tmp_path / "many.pt")

    interop_tool("--rewrite", tmp_path / "many.pt", tmp_path / "again.pt")

    loaded = load(tmp_path / "again.pt", weights_only=True)
    assert len(loaded) == 100000 and loaded["layer.99999"].item() == 99999
