"""``pawl.save`` and ``pawl.load``: torch's arguments and torch's file, but atomic, durable and verified.

A file written by ``pawl.save`` has a sidecar ``PATH.pawl`` with the XXH3-128 of each 4 MiB of it. The order of a save:
data and its sync under a temporary name, the sidecar likewise, rename of the sidecar, rename of the file, sync of the
directory. The sidecar names its file by size and digests, so a kill between the two renames leaves the old file with
a sidecar that is not its own: such a file is verified by the CRCs of its records instead, and never refused for that.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, Union

from pawl import _native
from pawl._native import PawlError

_SUFFIX = ".pawl"
_FORMAT = 1  # of the sidecar; one of a newer pawl is passed over, and the CRCs are looked at
_E_CORRUPT = -3
PathLike = Union[str, "os.PathLike[str]"]


def _corrupt(text: str) -> PawlError:
    error = PawlError(text)
    error.code = _E_CORRUPT
    return error


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_synced(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _is_path(f: Any) -> bool:
    return isinstance(f, (str, bytes, os.PathLike))


def _refuse_options(path: str, options: dict[str, Any]) -> None:
    """Those of ``torch.save`` that make another file. Its defaults make this one."""
    defaults = {"pickle_module": pickle, "pickle_protocol": 2, "_use_new_zipfile_serialization": True}
    for name, value in options.items():
        if name not in defaults:
            raise TypeError(f"pawl.save() got an unexpected keyword argument '{name}'")
        if value != defaults[name]:
            raise PawlError(
                f"cannot save '{path}' with {name}={value!r}: pawl writes torch's own format. Use torch.save"
            )


def save(obj: Any, f: Any, **options: Any) -> None:
    """Save an object as ``torch.save`` does, so that the file is at any moment the old one or the new one, whole.

    Parameters
    ----------
    obj
        Anything that ``torch.save`` takes.
    f
        A file's name. A symlink is followed: what it points at is replaced. A buffer, an open file, or the name
        of a device or a pipe is handed to ``torch.save`` as it is: nothing of it is durable.
    options
        Of ``torch.save``, at its defaults.

    Raises
    ------
    PawlError
        The file could not be made durable, or pickle refuses a part of `obj`, which the text names. What was there
        before is still there.
    """
    import torch

    from pawl._archive import Image
    from pawl._state import unsavable

    if not _is_path(f):
        torch.save(obj, f, **options)
        return
    path = os.fsdecode(f)
    _refuse_options(path, options)
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise PawlError(f"cannot save '{path}': it is a directory")
    if target.exists() and not target.is_file():
        # A rename over /dev/null, as root, would leave the machine without one.
        torch.save(obj, path)
        return
    try:
        image = Image(obj)
    except Exception as error:
        raise unsavable(f"what is to go to '{path}'", obj, error) from error
    memory = torch.empty(image.bytes, dtype=torch.uint8)
    image.write_to(memory)
    # The name says whose it is: two processes, or threads of one, may save beside each other.
    own = f"{os.getpid()}-{threading.get_ident()}"
    temporary = target.with_name(f".{target.name}.tmp-{own}")
    sidecar = target.with_name(target.name + _SUFFIX)
    temporary_sidecar = sidecar.with_name(f".{sidecar.name}.tmp-{own}")
    try:
        temporary.unlink(missing_ok=True)
        size, chunk_bytes, chunks = _native.write_image(str(temporary), memory.data_ptr(), image.bytes)
        _write_synced(
            temporary_sidecar,
            json.dumps({"format": _FORMAT, "bytes": size, "chunk_bytes": chunk_bytes, "xxh3_128": chunks}, indent=1)
            + "\n",
        )
        if target.exists():
            temporary.chmod(target.stat().st_mode & 0o7777)
        os.replace(temporary_sidecar, sidecar)
        os.replace(temporary, target)
        _sync_directory(target.parent)
    except OSError as error:
        problem = PawlError(f"cannot save '{path}': {error}. What was there before is unchanged.")
        problem.code = -6
        raise problem from error
    finally:
        temporary.unlink(missing_ok=True)
        temporary_sidecar.unlink(missing_ok=True)


def verify(path: PathLike) -> str:
    """Check a file's bytes: by its sidecar if it has its own, else by the CRC-32 of each record.

    Returns
    -------
    str
        What it was verified by: ``"xxh3"`` or ``"crc32"``.

    Raises
    ------
    PawlError
        It is damaged; the text names the chunk and the record.
    """
    name = os.fsdecode(path)
    real = os.path.realpath(name)  # a digest lies beside the file, not beside a link to it
    sidecar = Path(real + _SUFFIX)
    try:
        said = json.loads(sidecar.read_text(encoding="utf-8"))
        chunk_bytes, chunks, size = int(said["chunk_bytes"]), list(said["xxh3_128"]), int(said["bytes"])
        is_known = said["format"] == _FORMAT
    except (OSError, ValueError, KeyError, TypeError):
        chunks, is_known = [], False
    if is_known and chunks and size == os.stat(real).st_size:
        found = _native.digests(real, chunk_bytes)
        damaged = [i for i, (mine, theirs) in enumerate(zip(found, chunks)) if mine != theirs]
        if not damaged:
            return "xxh3"
        record = _native.damaged_record(real)
        if record is not None:
            raise _corrupt(
                f"'{name}' is damaged: bytes {damaged[0] * chunk_bytes} to "
                f"{min((damaged[0] + 1) * chunk_bytes, size)}, record {record}. Load an older file."
            )
        # Every CRC holds: the sidecar is of another save, which was killed before its rename.
        return "crc32"
    record = _native.damaged_record(real)
    if record is not None:
        raise _corrupt(f"'{name}' is damaged: the CRC-32 of record {record} does not hold. Load an older file.")
    return "crc32"


def load(f: Any, map_location: Any = None, *, weights_only: bool = True, **more: Any) -> Any:
    """Load a file as ``torch.load`` does, after its bytes have been verified.

    Parameters
    ----------
    f
        The name of a file that ``torch.save`` or ``pawl.save`` wrote. A buffer or an open file is handed to
        ``torch.load`` as it is: nothing of it is verified.
    map_location
        As in ``torch.load``. A checkpoint of a GPU is loaded on a machine without one by ``map_location="cpu"``.
    weights_only
        As in ``torch.load``: only tensors and plain values; nothing in the file is run.
    more
        What else ``torch.load`` takes (``mmap=True``).

    Raises
    ------
    PawlError
        The file is damaged, or no torch.save file.
    pickle.UnpicklingError
        It holds more than `weights_only` allows; the text names it.
    FileNotFoundError
        There is none.
    """
    import torch

    if not _is_path(f):
        return torch.load(f, map_location=map_location, weights_only=weights_only, **more)
    name = os.fsdecode(f)
    os.stat(name)  # FileNotFoundError, as torch.load raises it
    verify(name)
    try:
        loaded = torch.load(name, map_location=map_location, weights_only=weights_only, **more)
    except (RuntimeError, pickle.UnpicklingError) as error:
        # 1.13 wraps whatever goes wrong in an UnpicklingError, also this.
        if "deserialize object on a CUDA device" in str(error) and map_location is None:
            raise RuntimeError(
                f"'{name}' holds tensors of a GPU and this machine has none that torch can use: pass map_location='cpu'"
            ) from error
        if not (weights_only and isinstance(error, pickle.UnpicklingError)):
            raise
        raise pickle.UnpicklingError(
            f"'{name}' holds more than tensors and plain values ({refused_global(error)}) and is not loaded with "
            "weights_only=True, since loading it may run code. If you trust the file, pass weights_only=False"
        ) from error
    return _with_clear_words(loaded, name)


def refused_global(error: Exception) -> str:
    """What the restricted unpickler refused, as far as it says so."""
    text = str(error)
    found = re.search(r"GLOBAL (\S+)", text) or re.search(r"[Uu]nsupported (?:class|operand|global) (\S+)", text)
    return found.group(1) if found else text.splitlines()[0]


class _Loaded:
    """A loaded dict that says, of a key it lacks, where it came from and what it has instead."""

    _path = "the file"

    def __missing__(self, key: object) -> Any:
        keys = [repr(each) for each in self]  # type: ignore[attr-defined]
        has = ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "")
        raise KeyError(f"{key!r} is not in '{self._path}', which has {has or 'nothing'}{self._advice()}")

    def _advice(self) -> str:
        import torch

        values = list(self.values())  # type: ignore[attr-defined]
        if values and all(isinstance(value, torch.Tensor) for value in values):
            return ": it is a model's state_dict alone, for model.load_state_dict(checkpoint)"
        return ": it was saved under other names, or without it"

    def __reduce__(self) -> Any:
        # Saved again it is what anybody's torch.load reads: nothing of pawl.
        more = {name: value for name, value in vars(self).items() if name != "_path"}
        return (OrderedDict, (), more or None, None, iter(self.items()))  # type: ignore[attr-defined]


class _LoadedDict(_Loaded, dict):  # type: ignore[type-arg]
    pass


class _LoadedOrderedDict(_Loaded, OrderedDict):  # type: ignore[type-arg]
    pass


def _with_clear_words(loaded: Any, name: str) -> Any:
    kinds: dict[type, Any] = {dict: _LoadedDict, OrderedDict: _LoadedOrderedDict}
    kind = kinds.get(type(loaded))
    if kind is None:
        return loaded
    again = kind(loaded)
    vars(again).update(getattr(loaded, "__dict__", {}))  # a state_dict's `_metadata`
    again._path = name
    return again
