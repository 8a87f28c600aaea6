"""A torch.save file as an image in memory: pickled here, laid out and copied in C++.

The pickle is torch's own (`torch.serialization._save` of 1.13 and 2.x): objects pickle themselves, storages become
persistent ids ``('storage', type, key, location, numel)``. Only where the storages' bytes go is ours.
"""

from __future__ import annotations

import io
import pickle
from typing import Any, Optional

import torch

from pawl import _native

_PROTOCOL = 2  # as torch.save's; the newest that `weights_only` of every version reads


class _Pickler(pickle.Pickler):
    """Pickles an object and keeps the storages it met, in order of first appearance."""

    def __init__(self, target: io.BytesIO) -> None:
        super().__init__(target, protocol=_PROTOCOL)
        self.storages: list[Any] = []  # untyped; held, so that no address is used twice while we pickle
        self._keys: dict[int, str] = {}

    def persistent_id(self, obj: Any) -> Optional[tuple[str, Any, str, str, int]]:
        if isinstance(obj, torch.storage.TypedStorage):
            # 1.13 had these names without the underscore.
            untyped = obj._untyped_storage if hasattr(obj, "_untyped_storage") else obj._storage
            kind = obj._pickle_storage_type() if hasattr(obj, "_pickle_storage_type") else obj.pickle_storage_type()
            storage_type = getattr(torch, kind)
            numel = obj._size() if hasattr(obj, "_size") else obj.size()
        elif torch.is_storage(obj):
            untyped = obj
            storage_type = torch.serialization.normalize_storage_type(type(obj))
            numel = obj.nbytes()
        else:
            return None
        key = self._keys.get(untyped._cdata)
        if key is None:
            key = str(len(self.storages))
            self._keys[untyped._cdata] = key
            self.storages.append(untyped)
        return ("storage", storage_type, key, torch.serialization.location_tag(untyped), numel)


class Image:
    """What an object's file will be: its size, known before a byte is copied.

    Parameters
    ----------
    obj
        Anything that ``torch.save`` takes.
    shards
        The text of the record that says which parts of tensors it holds; empty: no such record.
    """

    def __init__(self, obj: Any, shards: bytes = b"") -> None:
        target = io.BytesIO()
        pickler = _Pickler(target)
        pickler.dump(obj)
        self._storages = pickler.storages
        sizes = [storage.nbytes() for storage in self._storages]
        self._plan, self.bytes, self._offsets = _native.plan(target.getvalue(), sizes, shards)

    def write_to(self, target: torch.Tensor) -> None:
        """Fill `target`, a contiguous uint8 tensor of `self.bytes` elements on the CPU.

        Storages of the CPU are copied with the GIL released; those of a device are copied by torch.
        """
        copies: list[tuple[int, int, int]] = []
        devices: list[tuple[Any, int]] = []
        for storage, offset in zip(self._storages, self._offsets):
            if storage.nbytes() == 0:
                continue
            if storage.device.type == "cpu":
                copies.append((storage.data_ptr(), offset, storage.nbytes()))
            else:
                devices.append((storage, offset))
        _native.lay_out(self._plan, target.data_ptr(), self.bytes, copies)
        for storage, offset in devices:
            source = torch.empty(0, dtype=torch.uint8, device=storage.device)
            target[offset : offset + storage.nbytes()].copy_(source.set_(storage))


class ImageFile(io.RawIOBase):
    """An image in memory as the file object that ``torch.load`` wants, without a copy of it."""

    def __init__(self, image: memoryview) -> None:
        super().__init__()
        self._image = image
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        count = max(0, min(len(target), len(self._image) - self._position))
        target[:count] = self._image[self._position : self._position + count]
        self._position += count
        return count

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: len(self._image)}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position
