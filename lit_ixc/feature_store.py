"""Features of media by key, kept in files and in memory."""

from __future__ import annotations

import json
import logging
import os
import re
import time
import uuid
import zlib
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from filelock import FileLock
from safetensors import SafetensorError
from torch import Tensor

from lit_ixc.records import UserError

log = logging.getLogger(__name__)

#: Part of every namespace and checksum: raise it when what an entry holds changes its meaning.
FORMAT = "lit_ixc features 1"

_KEY = re.compile(r"[0-9a-f]{40}")
_INTEGERS = "integers."
#: A writer asks for its share of the disk in such parts of the whole, so that it seldom needs the lock.
_GRANTS = 128
_LOCK_SECONDS = 60
_STALE_SECONDS = 3600
_DAMAGE = (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError)


class Entry(NamedTuple):
    """What is kept of the media of one prompt.

    Args:
        features: (sum(lengths), F) vectors at the visual positions, on the CPU. Memory hands out the same tensor again:
            do not change it in place.
        lengths: Visual tokens of each image or video.
        integers: The small integer inputs that positions are made from (``image_grid_thw``, ...), by name.
    """

    features: Tensor
    lengths: tuple[int, ...]
    integers: dict[str, Tensor]


@dataclass
class Stats:
    """What happened to a store in this process.

    Args:
        memory, disk, miss: Look-ups by where they ended.
        corrupt: Damaged entries that were removed; they count as misses too.
        computed: Entries that were given to the store.
        stored, stored_bytes: Those of them that were written to disk, and their size.
        unstored: Those that could not be written.
        evicted: Entries that were removed from disk to make room.
    """

    memory: int = 0
    disk: int = 0
    miss: int = 0
    corrupt: int = 0
    computed: int = 0
    stored: int = 0
    stored_bytes: int = 0
    unstored: int = 0
    evicted: int = 0


class FeatureStore:
    """Features by key, on disk for all runs and in the memory of the process that made the store.

    Processes may share the folder: an entry appears whole or not at all, two writers of one key write the same, and an
    entry that was damaged since is noticed by its checksum, removed and computed again. What is least recently used
    goes first; a hit on disk counts as use. With one writer the files never exceed ``disk_gb``; each further one may
    exceed it by 1/128 of it or by one entry, whichever is more. Where nothing can be written, the run goes on without.

    A copy in another process (a loader's worker) uses the disk alone: the system's page cache holds the files once for
    all workers, and memory that is handed from process to process would be held twice. One thread may use an object.

    Args:
        folder: Its place, made if absent. All namespaces in it share ``disk_gb``.
        namespace: Name of what the features depend on besides the key, see :func:`lit_ixc.features.vision_fingerprint`.
        disk_gb: Most 10^9 bytes of files.
        memory_mb: Most MiB of features in memory; 0 keeps none.

    Raises:
        UserError: A limit is out of range.
    """

    def __init__(self, folder: Path, namespace: str, disk_gb: float = 50, memory_mb: int = 1024) -> None:
        if disk_gb <= 0:
            raise UserError(f"disk_gb = {disk_gb}: choose a positive size, or leave the feature cache out")
        if memory_mb < 0:
            raise UserError(f"memory_mb = {memory_mb}: choose at least 0, which keeps no features in memory")
        self.folder, self.namespace = Path(folder).expanduser(), namespace
        self.disk_bytes, self.memory_bytes = int(disk_gb * 10**9), memory_mb * 2**20
        self.stats = Stats()
        self._memory: OrderedDict[str, Entry] = OrderedDict()
        self._memory_used, self._granted = 0, 0
        self._process = os.getpid()
        self._stopped = False
        self._warned: set[str] = set()
        try:
            (self.folder / namespace).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._stop(error)

    def __getstate__(self) -> dict[str, Any]:
        """Without what belongs to this process: its memory, its share of the disk and its counts."""
        own = {"_memory": OrderedDict(), "_memory_used": 0, "_granted": 0, "stats": Stats(), "_warned": set()}
        return self.__dict__ | own

    def path(self, key: str) -> Path:
        """Where the entry of a key lies."""
        return self.folder / self.namespace / key[:2] / f"{key}.safetensors"

    def get(self, key: str) -> Entry | None:
        """The entry of a key (40 hexadecimal digits), or None where there is none that is whole."""
        if self._owns_memory and (entry := self._memory.get(key)) is not None:
            self._memory.move_to_end(key)
            self.stats.memory += 1
            return entry
        entry = self._read(key)
        if entry is None:
            self.stats.miss += 1
            return None
        self.stats.disk += 1
        self._remember(key, entry)
        return entry

    def put(self, key: str, entry: Entry) -> None:
        """Keep an entry. What cannot be written is counted, and the log says so once."""
        self.stats.computed += 1
        self._remember(key, entry)
        if not self._stopped:
            try:
                path = self.path(key)
                if path.exists():  # another process was faster
                    return
                data = _file_of(key, entry)
                if self._reserve(len(data)):
                    _write(path, data)
                    self.stats.stored += 1
                    self.stats.stored_bytes += len(data)
                    return
            except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
                self._stop(error)
        self.stats.unstored += 1

    @property
    def _owns_memory(self) -> bool:
        """Whether this is the process that made the store; forked and unpickled copies are in others."""
        return os.getpid() == self._process

    def _remember(self, key: str, entry: Entry) -> None:
        size = _size(entry)
        if not self._owns_memory or size > self.memory_bytes:
            return
        if (old := self._memory.pop(key, None)) is not None:
            self._memory_used -= _size(old)
        self._memory[key] = entry
        self._memory_used += size
        while self._memory_used > self.memory_bytes:
            self._memory_used -= _size(self._memory.popitem(last=False)[1])

    def _read(self, key: str) -> Entry | None:
        path = self.path(key)
        try:
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            self._warn("unreadable", f"{path} cannot be read ({error}): features are computed again")
            return None
        try:
            entry = _entry_of(key, data)
        except _DAMAGE as error:
            self.stats.corrupt += 1
            self._warn("damaged", f"{path} is damaged ({error}): it is removed and computed again; further ones too")
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):  # a folder of somebody else's may be read too
            os.utime(path)
        return entry

    def _reserve(self, size: int) -> bool:
        """Take room on disk for a file, from what this process was granted or else from the folder's account.

        The account is the sum of all grants since files were last counted, so it never lies below what is on disk;
        only when it is used up are the files counted again, and the oldest removed.
        """
        if size > self.disk_bytes:
            self._warn("large", f"disk_gb = {self.disk_bytes / 10**9:g}: an entry of {size} bytes is larger; raise it")
            return False
        if size > self._granted:
            grant = max(size, self.disk_bytes // _GRANTS)
            with FileLock(self.folder / ".lock", timeout=_LOCK_SECONDS):
                used = self._account()
                if used is None or used + grant > self.disk_bytes:
                    # Room for more than this grant: counting many files takes a while.
                    used = self._evict(min(self.disk_bytes - grant, self.disk_bytes * 9 // 10))
                (self.folder / ".used").write_text(f"{used + grant}\n", encoding="ascii")
            self._granted += grant
        self._granted -= size
        return True

    def _account(self) -> int | None:
        """Bytes that were granted to writers; None where no whole number stands."""
        with suppress(OSError, ValueError):
            text = (self.folder / ".used").read_text(encoding="ascii")
            return int(text) if text.endswith("\n") else None
        return None

    def _evict(self, target: int) -> int:
        """Remove the least recently used entries of all namespaces until at most ``target`` bytes are left.

        Returns:
            Bytes that are left.
        """
        entries, used = [], 0
        for path in self.folder.glob("*/??/*"):
            # Only what has an entry's name is ours: the folder may hold other files.
            key, own = path.name.removeprefix(".")[:40], path.suffix in (".safetensors", ".tmp")
            if not own or not _KEY.fullmatch(key) or path.parent.name != key[:2]:
                continue
            with suppress(FileNotFoundError):
                found = path.stat()
                if path.suffix == ".tmp" and found.st_mtime < time.time() - _STALE_SECONDS:
                    path.unlink()  # of a writer that was killed
                    continue
                used += found.st_size
                if path.suffix == ".safetensors":
                    entries.append((found.st_mtime_ns, path, found.st_size))
        for _, path, size in sorted(entries):
            if used <= target:
                break
            path.unlink(missing_ok=True)
            used -= size
            self.stats.evicted += 1
        return used

    def _stop(self, error: Exception) -> None:
        self._stopped = True
        self._warn(
            "unwritable",
            f"feature cache: {self.folder} cannot be written ({error}): the run goes on without storing features; "
            "make room or choose another folder",
        )

    def _warn(self, kind: str, message: str) -> None:
        """Say it once in this process."""
        if kind not in self._warned:
            self._warned.add(kind)
            log.warning(message)


def framed(text: str) -> bytes:
    """Text with its length before it, so that no two sequences of texts give the same bytes."""
    data = text.encode("utf-8")
    return len(data).to_bytes(8, "little") + data


def pieces(name: str, tensor: Tensor) -> tuple[bytes, memoryview]:
    """What a hash takes of a tensor: its name, type and shape, and its bytes."""
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return framed(f"{name} {tensor.dtype} {list(tensor.shape)}"), data.numpy().data


def _checksum(key: str, entry: Entry) -> str:
    """CRC-32 of all that an entry holds. A cryptographic hash would take most of the time of a hit."""
    crc = zlib.crc32(framed(f"{FORMAT} {key} {list(entry.lengths)}"))
    for name, tensor in [("features", entry.features), *sorted(entry.integers.items())]:
        for piece in pieces(name, tensor):
            crc = zlib.crc32(piece, crc)
    return f"{crc:08x}"


def _file_of(key: str, entry: Entry) -> bytes:
    """An entry as a safetensors file."""
    tensors = {"features": entry.features, **{_INTEGERS + name: tensor for name, tensor in entry.integers.items()}}
    described = {"lengths": json.dumps(entry.lengths), "checksum": _checksum(key, entry)}
    return safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()}, described)


def _entry_of(key: str, data: bytes) -> Entry:
    """The entry in a safetensors file. Raises one of ``_DAMAGE`` unless it is whole and belongs to the key."""
    described = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    with torch.inference_mode(False):  # or what validation reads could not be used in training
        tensors = safetensors.torch.load(data)
    features = tensors.pop("features")
    integers = {name.removeprefix(_INTEGERS): tensor for name, tensor in tensors.items()}
    entry = Entry(features, tuple(json.loads(described["lengths"])), integers)
    if described["checksum"] != _checksum(key, entry):
        raise ValueError("its checksum is wrong")
    return entry


def _write(path: Path, data: bytes) -> None:
    """Write a file so that it appears whole. It is not flushed to disk: the checksum finds what a power cut leaves."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def _size(entry: Entry) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in (entry.features, *entry.integers.values()))
