"""Values of every type that torch.save files hold, and a worker that saves, loads and describes them.

    python interop_values.py save FOLDER      writes FOLDER/<n>.pt for each row; prints JSON: what each holds
    python interop_values.py load FOLDER      loads them in every way this PyTorch knows; prints JSON

Run by interop_table_test.py under each PyTorch. A description is one line of ASCII that is the same for equal values,
to the last bit, whoever makes it: this file of Python objects, interop_tool.cc of a file.
"""

from __future__ import annotations

import collections
import contextlib
import json
import pathlib
import struct
import sys
import warnings

import numpy
import torch

warnings.simplefilter("ignore")
IS_1 = int(torch.__version__.split(".")[0]) < 2

DTYPES = (
    "float32 float64 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex64 complex128 uint16 uint32 uint64 "
    "float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu float4_e2m1fn_x2 complex32 bcomplex32 "
    "bits8 bits16 bits1x8 bits2x4 bits4x2"
).split()


class NotThere(Exception):
    """This PyTorch has no such value."""


# ---- description ----


def hex_of_float(number: float) -> str:
    return struct.pack(">d", number).hex()


def untyped(tensor: torch.Tensor):
    return tensor._storage() if IS_1 else tensor.untyped_storage()


def bytes_of(storage) -> bytes:
    return torch.empty(0, dtype=torch.uint8).set_(storage, 0, (storage.nbytes(),), (1,)).numpy().tobytes()


class Describer:
    def __init__(self) -> None:
        self.objects: dict[int, int] = {}
        self.storages: dict[int, int] = {}

    def of(self, value) -> str:
        kind = type(value)
        if value is None or kind is bool:
            return str(value)
        if kind is int:
            if -(2**63) <= value < 2**63:
                return f"int {value}"
            length = (value if value >= 0 else ~value).bit_length() // 8 + 1
            return "int x" + value.to_bytes(length, "little", signed=True).hex()
        if kind is float:
            return "float " + hex_of_float(value)
        if kind is complex:
            return f"complex {hex_of_float(value.real)} {hex_of_float(value.imag)}"
        if kind is str:
            return "str " + value.encode("utf-8", "surrogatepass").hex()
        if kind in (bytes, bytearray):
            return f"{kind.__name__} {value.hex()}"
        if kind is torch.Size:
            return "Size(" + ", ".join(map(str, value)) + ")"
        if kind is torch.device:
            return f"device {value}"
        if kind is torch.dtype:
            return "dtype " + str(value).replace("torch.", "")
        if isinstance(value, numpy.generic):
            return f"numpy {value.dtype.str[1:]} {value.tobytes().hex()}"
        if kind is tuple:
            return "(" + ", ".join(map(self.of, value)) + ")"
        if kind is frozenset:
            return "frozenset{" + ", ".join(sorted(map(self.of, value))) + "}"
        return self.of_object(value)

    def of_object(self, value) -> str:
        """Of what can change, and so is the same in two places or is not."""
        if id(value) in self.objects:
            return f"same#{self.objects[id(value)]}"
        number = self.objects.setdefault(id(value), len(self.objects) + 1)
        if isinstance(value, torch.Tensor):
            return self.of_tensor(value, number)
        name = f"{type(value).__name__}#{number}"
        if type(value) is list:
            return name + "[" + ", ".join(map(self.of, value)) + "]"
        if type(value) is set:
            return name + "{" + ", ".join(sorted(map(self.of, value))) + "}"
        if type(value) is dict:
            return name + self.of_pairs(value)
        if type(value) is collections.OrderedDict:
            return name + self.of_pairs(value) + (self.of_pairs(value.__dict__) if value.__dict__ else "")
        return name

    def of_pairs(self, pairs: dict) -> str:
        return "{" + ", ".join(f"{self.of(key)}: {self.of(value)}" for key, value in pairs.items()) + "}"

    def of_tensor(self, tensor: torch.Tensor, number: int) -> str:
        text = f"{type(tensor).__name__.replace('Tensor', 'tensor')}#{number}<{str(tensor.dtype).replace('torch.', '')}"
        text += f" shape ({', '.join(map(str, tensor.shape))}) stride ({', '.join(map(str, tensor.stride()))})"
        text += f" offset {tensor.storage_offset()}"
        text += " requires_grad" * tensor.requires_grad + " conj" * tensor.is_conj() + " neg" * tensor.is_neg()
        if tensor.__dict__:
            text += " " + self.of_pairs(tensor.__dict__)
        storage = untyped(tensor)
        if storage.nbytes() == 0:
            return text + " empty>"
        is_new = storage.data_ptr() not in self.storages
        place = self.storages.setdefault(storage.data_ptr(), len(self.storages) + 1)
        return text + f" storage@{place}" + (" " + bytes_of(storage).hex() if is_new else "") + ">"


def describe(value) -> str:
    return Describer().of(value)


# ---- values ----


def tensor_of(name: str) -> torch.Tensor:
    """2 by 3 elements with bytes that are all different, NaNs and denormals among them."""
    dtype = getattr(torch, name, None)
    if dtype is None:
        raise NotThere(f"{torch.__version__[:4]} has no {name}")
    size = torch.empty(1, dtype=dtype).element_size()
    pattern = bytes(i % 2 if name == "bool" else (i * 37 + 11) % 256 for i in range(6 * size))
    source = torch.frombuffer(bytearray(pattern), dtype=torch.uint8).clone()
    return torch.empty(0, dtype=dtype).set_(untyped(source), 0, (2, 3), (3, 1))


def with_attributes(value, **attributes):
    for name, attribute in attributes.items():
        setattr(value, name, attribute)
    return value


def shared_containers():
    inner = [1, "x"]
    table = {"list": inner}
    table_again = {"a": table, "b": table, "inner": inner}
    weight = torch.arange(4.0)
    return [inner, table_again, (inner, table), {"w": weight, "again": weight}, {1, 2}]


def nested(depth: int):
    value: object = "bottom"
    for level in range(depth):
        value = [value] if level % 2 else {"deeper": value}
    return value


def two_types():
    if IS_1:
        raise NotThere("1.13 has no uint16")
    memory = torch.arange(12, dtype=torch.uint8)
    return [memory.view(torch.uint16), memory, memory[4:8].view(torch.float8_e5m2)]


def network():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Flatten(), torch.nn.Linear(18, 2))


def trained(make_optimizer):
    net = network()
    net(torch.ones(1, 1, 5, 5))
    optimizer = make_optimizer(net.parameters())
    for _ in range(2):
        optimizer.zero_grad()
        net(torch.arange(50.0).reshape(2, 1, 5, 5)).square().mean().backward()
        optimizer.step()
    return {"model": net.state_dict(), "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state()}


def everything():
    """For the other pickle protocols: each type that has opcodes of its own in one of them."""
    return {
        "ints": [0, 255, 256, 65536, -1, 2**31, 2**63, -(2**63), 2**2100],
        "text": ["", "x" * 300, "Grüße"],
        "bytes": [b"", b"\x00\xff", b"x" * 300, bytearray(b"ab\xff"), bytearray()],
        "sets": [{1, 2}, set(), frozenset((3, 4)), frozenset()],
        "numbers": (0.1, 1 + 2j, True, None),
        "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        "ordered": with_attributes(collections.OrderedDict(a=1), _metadata=collections.OrderedDict(v={"version": 2})),
        "many": list(range(2500)),
        "torch": [torch.Size((2, 3)), torch.device("cuda", 1), torch.float16],
        "tensors": [torch.arange(6.0), torch.nn.Parameter(torch.ones(2))],
        "shared": shared_containers(),
    }


def of_2(make):
    """What 1.13 lacks altogether."""
    if IS_1:
        raise NotThere("1.13 has no such value")
    return make()


class Subclass(torch.Tensor):
    pass


def complex_ones():
    return torch.complex(torch.arange(4.0), torch.arange(4.0) + 0.5)


def rows() -> dict:
    """Name in the table: a function that makes the value, and what torch.save gets besides."""
    zero_d = torch.tensor(1.5)
    matrix = torch.arange(12.0).reshape(3, 4)
    table = {f"tensor of {name}": (lambda name=name: tensor_of(name)) for name in DTYPES}
    table |= {
        "tensor, 0-d": lambda: zero_d,
        "tensor, empty": lambda: [torch.empty(0), torch.empty(3, 0, 2), torch.ones(4)[2:2]],
        "tensor, strided": lambda: [matrix.t()[1:], matrix[:, 1::2], torch.ones(1).expand(3, 5), matrix.unsqueeze(1)],
        "tensors on one storage": lambda: {"all": matrix, "row": matrix[1], "column": matrix[:, 2]},
        "two dtypes on one storage": two_types,
        "tensor, requires_grad": lambda: torch.ones(3, requires_grad=True),
        "tensor, lazily conjugated": lambda: complex_ones().conj(),
        "tensor, lazily negated": lambda: complex_ones().conj().imag,
        "tensor with attributes": lambda: with_attributes(torch.ones(2), note="x", shape_before=(4, 5)),
        "`Parameter`": lambda: [torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2), requires_grad=False)],
        "`Parameter` with attributes": lambda: with_attributes(torch.nn.Parameter(torch.ones(2)), note="x"),
        "None, bool": lambda: [None, True, False],
        "int of 64 bits": lambda: [0, 255, 256, 65535, 65536, -1, 2**31 - 1, 2**31, -(2**31) - 1, 2**63 - 1, -(2**63)],
        "int beyond 64 bits": lambda: [2**63, -(2**63) - 1, 2**64, 2**2000, -(2**2000)],
        "int of 256 bytes and more": lambda: [2**2100, -(2**2100)],
        "float": lambda: [0.1, -0.0, float("inf"), float("-inf"), float("nan"), 5e-324, 1e308],
        "complex": lambda: [1 + 2j, complex(-0.0, float("nan"))],
        "str": lambda: ["", "a\nb'\"\\\0\x1b", "Grüße \U0001f525", "\ud800", "\udcff.pt", "\ud83d\udd25", "x" * 70000],
        "bytes": lambda: [bytes(range(256)), b"latin1"],
        "bytes, empty": lambda: b"",
        "bytearray": lambda: [bytearray(b"ab\xff"), bytearray()],
        "list, tuple": lambda: [[], [1], (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), list(range(2500))],
        "dict": lambda: [{}, {"a": 1, 7: 2, 2.5: 3, False: 4}, {"new\nline": 1, "q'\"": 2, "\udcff": 3}],
        "dict, further keys": lambda: {None: 1, (1, "a"): 2, ("b",): 3, 2**70: 4, torch.float16: 5},
        "`OrderedDict`": lambda: collections.OrderedDict([("b", 1), ("a", 2)]),
        "`OrderedDict` with `_metadata`": lambda: network().state_dict(),
        "set": lambda: [{1, "a", (2, 3)}, set()],
        "set, empty": lambda: set(),
        "frozenset": lambda: [frozenset((1, 2)), frozenset()],
        "`torch.Size`": lambda: [torch.Size((2, 3)), torch.Size(())],
        "`torch.device`": lambda: [torch.device("cpu"), torch.device("cuda", 1)],
        "`torch.dtype`": lambda: [torch.float32, torch.int8, torch.bool],
        "NumPy scalar": lambda: [numpy.float64(0.1), numpy.int64(-7), numpy.bool_(True), numpy.float16(2), numpy.uint8(9)],
        "one object in several places": shared_containers,
        "150 levels": lambda: nested(150),
        "Adam's state": lambda: trained(lambda p: torch.optim.Adam(p, lr=1, eps=1)),
        "SGD's state": lambda: trained(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
        "pickle protocol 3": (everything, {"pickle_protocol": 3}),
        "pickle protocol 4": (everything, {"pickle_protocol": 4}),
        "pickle protocol 5": (everything, {"pickle_protocol": 5}),
        "sparse tensor, COO": lambda: {"model": {"w": torch.eye(2).to_sparse()}},
        "sparse tensor, CSR": lambda: {"w": torch.eye(2).to_sparse_csr()},
        "quantized tensor": lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        "nested tensor": lambda: of_2(lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])),
        "meta tensor": lambda: [1, torch.ones(2, device="meta")],
        "tensor subclass": lambda: {"w": torch.ones(2).as_subclass(Subclass)},
        "storage": lambda: torch.ones(2).storage(),
        "NumPy array": lambda: {"a": numpy.arange(3)},
        "`defaultdict`": lambda: collections.defaultdict(int, a=1),
        "object": lambda: {"path": pathlib.PurePosixPath("/")},
        "format of before 1.6": (lambda: {"w": torch.ones(2)}, {"_use_new_zipfile_serialization": False}),
    }
    return {name: row if isinstance(row, tuple) else (row, {}) for name, row in table.items()}


# ---- the worker ----


def save(folder: pathlib.Path) -> dict:
    results = {}
    for index, (name, (make, options)) in enumerate(rows().items()):
        path = folder / f"{index}.pt"
        try:
            value = make()
            torch.save(value, path, **options)
        except Exception as error:  # noqa: BLE001: whatever it is, it belongs into the table
            results[name] = {"error": f"{type(error).__name__}: {error}"}
            continue
        results[name] = {"file": path.name, "value": described(value), "again": attempt(path, weights_only=False)}
    return results


def described(value) -> str:
    try:
        return describe(value)
    except (NotImplementedError, RuntimeError) as error:  # a tensor without a storage: no file of pawl's holds one
        return f"beyond description: {error}"


def attempt(path: pathlib.Path, **options) -> dict:
    try:
        return {"value": describe(torch.load(str(path), **options))}
    except Exception as error:  # noqa: BLE001: whatever it is, it belongs into the table
        return {"error": f"{type(error).__name__}: {error}"}


def load(folder: pathlib.Path) -> dict:
    ways = {"plain": {"weights_only": False}, "weights_only": {"weights_only": True, "map_location": "cpu"}}
    if not IS_1:
        ways["mmap"] = {"weights_only": False, "mmap": True}
    return {
        path.name: {way: attempt(path, **options) for way, options in ways.items()}
        for path in sorted(folder.glob("*.pt"))
    }


if __name__ == "__main__":
    command, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    with contextlib.redirect_stdout(sys.stderr):
        answer = {"save": save, "load": load}[command](folder)
    json.dump(answer, sys.stdout)
