"""What may be left of a folder and a database when power fails: recorded, then played back.

`Machine` stands between the local store and the operating system and writes down each change and
each sync. `Remains` follows that list and says what a disk may hold after its first n entries: a
file's bytes are sure after its own fsync, a name in a folder after the folder's; what was not synced
may be there, not be there, or be torn between two sectors, one independent of the other.
"""

import os
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SECTOR = 512


@dataclass(frozen=True)
class Event:
    """`what` is create, write, sync, mkdir, link, unlink, sync folder, commit or note."""

    what: str
    subject: object = None
    more: object = None


class Machine:
    """The functions of `os` that LocalObjects calls, written down; syncing takes no time here."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log: list[Event] = []
        self.lock = threading.RLock()
        self._inodes: dict[str, int] = {}
        self._open: dict[int, int | str] = {}
        self._ends: dict[int, int] = {}

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)

    def note(self, what: str, more: object = None) -> None:
        with self.lock:
            self.log.append(Event("note", what, more))

    def open(self, path, flags: int, mode: int = 0o777) -> int:
        with self.lock:
            handle = os.open(path, flags, mode)
            if flags & os.O_CREAT:
                inode = self._inodes[self._name(path)] = len(self._inodes)
                self._ends[inode] = 0
                self.log.append(Event("create", self._name(path), inode))
                self._open[handle] = inode
            elif flags & os.O_DIRECTORY:
                self._open[handle] = self._name(path)
            return handle

    def writev(self, handle: int, parts) -> int:
        with self.lock:
            count = os.writev(handle, parts)
            inode, data = self._open[handle], b"".join(parts)
            self.log.append(Event("write", inode, (self._ends[inode], data[:count])))
            self._ends[inode] += count
            return count

    def fsync(self, handle: int) -> None:
        with self.lock:
            subject = self._open[handle]
            self.log.append(Event("sync folder" if isinstance(subject, str) else "sync", subject))

    def close(self, handle: int) -> None:
        with self.lock:
            self._open.pop(handle, None)
            os.close(handle)

    def mkdir(self, path, mode: int = 0o777) -> None:
        with self.lock:
            os.mkdir(path, mode)
            self.log.append(Event("mkdir", self._name(path)))

    def link(self, source, target) -> None:
        with self.lock:
            os.link(source, target)
            inode = self._inodes[self._name(source)]
            self._inodes[self._name(target)] = inode
            self.log.append(Event("link", self._name(target), inode))

    def unlink(self, path) -> None:
        with self.lock:
            os.unlink(path)
            self.log.append(Event("unlink", self._name(path)))

    def _name(self, path) -> str:
        return Path(path).relative_to(self.root).as_posix()


class Committing:
    """Vault records whose every transaction is written down with what `state` gives after it."""

    _WRITES = frozenset(
        {
            "begin", "open_pack", "seal", "uncover", "finish", "verified", "damage", "commit",
            "forget", "abandon", "condemn", "deleted", "adopt",
        }
    )  # fmt: skip

    def __init__(self, real, machine: Machine, state: Callable[[], object]) -> None:
        self._real, self._machine, self._state = real, machine, state

    def __getattr__(self, name: str):
        method = getattr(self._real, name)
        if name not in self._WRITES:
            return method

        def transaction(*given, **more):
            with self._machine.lock:
                answer = method(*given, **more)
                self._machine.log.append(Event("commit", name, self._state()))
                return answer

        return transaction


@dataclass
class _File:
    synced: bytes = b""
    size: int = 0
    waiting: list[tuple[int, bytes]] = field(default_factory=list)

    def after(self, rng: random.Random) -> bytes:
        """What a disk may show of it: each sector that waits arrived or did not."""
        if not self.waiting:
            return self.synced
        fate = rng.choice(["all", "none", "torn", "torn", "zeros"])
        if fate == "none":
            return self.synced
        whole = bytearray(self.synced.ljust(self.size, b"\0"))
        for offset, data in self.waiting:
            for at in range(0, len(data), SECTOR):
                if fate == "all" or (fate == "torn" and rng.random() < 0.7):
                    part = data[at : at + SECTOR]
                    whole[offset + at : offset + at + len(part)] = part
        if fate != "all" and rng.random() < 0.5:
            del whole[rng.randint(len(self.synced), self.size) :]
        return bytes(whole)

    def now(self) -> bytes:
        if not self.waiting:
            return self.synced
        whole = bytearray(self.synced.ljust(self.size, b"\0"))
        for offset, data in self.waiting:
            whole[offset : offset + len(data)] = data
        return bytes(whole)


_Entry = int | None  # an inode, or a folder


@dataclass
class _Folder:
    synced: dict[str, _Entry] = field(default_factory=dict)
    waiting: list[tuple[str, bool, _Entry]] = field(default_factory=list)

    def after(self, arrived: Callable[[], bool]) -> dict[str, _Entry]:
        entries = dict(self.synced)
        for name, made, entry in self.waiting:
            if not arrived():
                continue
            if made:
                entries[name] = entry
            else:
                entries.pop(name, None)
        return entries


class Remains:
    """What a disk may hold after the events so far."""

    def __init__(self) -> None:
        self._files: dict[int, _File] = {}
        self._folders: dict[str, _Folder] = {"": _Folder()}

    def follow(self, event: Event) -> bool:
        """Whether the event changed what may be left."""
        match event.what:
            case "create":
                self._files[event.more] = _File()
                self._entry(event.subject, made=True, entry=event.more)
            case "write":
                file, (offset, data) = self._files[event.subject], event.more
                file.waiting.append((offset, data))
                file.size = max(file.size, offset + len(data))
            case "sync":
                file = self._files[event.subject]
                file.synced, file.waiting = file.now(), []
            case "mkdir":
                self._folders[event.subject] = _Folder()
                self._entry(event.subject, made=True, entry=None)
            case "link":
                self._entry(event.subject, made=True, entry=event.more)
            case "unlink":
                self._entry(event.subject, made=False, entry=None)
            case "sync folder":
                folder = self._folders[_folder(event.subject)]
                folder.synced, folder.waiting = folder.after(lambda: True), []
            case _:
                return False
        return True

    def killed(self) -> dict[str, bytes]:
        """The process ended and the machine lives: all is there."""
        return dict(self._walk("", lambda: True, _File.now))

    def cut(self, rng: random.Random) -> dict[str, bytes]:
        """One of the many things that a power failure may leave, by name."""
        odds = rng.choice([0, 0.2, 0.5, 0.9, 1])
        return dict(self._walk("", lambda: rng.random() < odds, lambda file: file.after(rng)))

    def _walk(
        self, folder: str, arrived: Callable[[], bool], content: Callable[[_File], bytes]
    ) -> Iterator[tuple[str, bytes]]:
        for name, entry in self._folders[folder].after(arrived).items():
            path = f"{folder}/{name}" if folder else name
            if entry is None:
                yield from self._walk(path, arrived, content)
            else:
                yield path, content(self._files[entry])

    def _entry(self, path: str, *, made: bool, entry: _Entry) -> None:
        folder, _, name = path.rpartition("/")
        self._folders[folder].waiting.append((name, made, entry))


def _folder(name: str) -> str:
    return "" if name == "." else name


class CountedKeys:
    """Remembers, by a hash, each (key, nonce) that sealed anything; `twice` must stay empty."""

    def __init__(self) -> None:
        self.used: set[bytes] = set()
        self.twice: list[str] = []
        self._lock = threading.Lock()

    def cipher(self, key: bytes) -> "_Counted":
        return _Counted(self, key)

    def use(self, key: bytes, nonce: bytes) -> None:
        mark = blake3(key + nonce).digest()
        with self._lock:
            if mark in self.used:
                self.twice.append(nonce.hex())
            self.used.add(mark)


class _Counted:
    def __init__(self, counted: CountedKeys, key: bytes) -> None:
        self._counted, self._key, self._real = counted, key, AESGCM(key)
        self.decrypt = self._real.decrypt

    def encrypt(self, nonce: bytes, data, bound) -> bytes:
        self._counted.use(self._key, nonce)
        return self._real.encrypt(nonce, data, bound)
