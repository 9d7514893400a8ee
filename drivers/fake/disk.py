"""Sparse disks in memory, and the readers and writers that move their bytes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from threading import RLock

from controlplane.domain.disk import KIB, Extent, ExtentKind
from controlplane.domain.errors import Invalid, Unavailable

PAGE = 64 * KIB
_ZEROS = bytes(PAGE)


@dataclass(slots=True, kw_only=True)
class FakeDisk:
    """`size` bytes; a page that is absent holds zeros. Pages are immutable, so copies are cheap."""

    size: int
    pages: dict[int, bytes] = field(default_factory=dict)

    def copy(self, *, size: int | None = None) -> "FakeDisk":
        return FakeDisk(size=self.size if size is None else size, pages=dict(self.pages))

    def read(self, offset: int, length: int) -> bytes:
        self._within(offset, length)
        parts = []
        while length:
            page, start = divmod(offset, PAGE)
            part = self.pages.get(page, _ZEROS)[start : start + length]
            parts.append(part)
            offset, length = offset + len(part), length - len(part)
        return b"".join(parts)

    def write(self, offset: int, data: bytes) -> None:
        self._within(offset, len(data))
        view = memoryview(data)
        while view:
            page, start = divmod(offset, PAGE)
            part = view[: PAGE - start]
            whole = bytearray(self.pages.get(page, _ZEROS))
            whole[start : start + len(part)] = part
            self._put(page, bytes(whole))
            offset, view = offset + len(part), view[len(part) :]

    def zero(self, offset: int, length: int) -> None:
        self._within(offset, length)
        end = offset + length
        for page in [p for p in self.pages if p * PAGE < end and (p + 1) * PAGE > offset]:
            start, stop = max(offset, page * PAGE), min(end, (page + 1) * PAGE)
            whole = bytearray(self.pages[page])
            whole[start - page * PAGE : stop - page * PAGE] = bytes(stop - start)
            self._put(page, bytes(whole))

    def digest(self, length: int | None = None) -> str:
        """SHA-256 of the first `length` bytes (all of them when None)."""
        left = self.size if length is None else length
        hasher = sha256()
        for page in range((left + PAGE - 1) // PAGE):
            hasher.update(self.pages.get(page, _ZEROS)[:left])
            left -= PAGE
        return hasher.hexdigest()

    def _put(self, page: int, data: bytes) -> None:
        if data == _ZEROS:
            self.pages.pop(page, None)
        else:
            self.pages[page] = data

    def _within(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise Invalid(f"bytes {offset}+{length} are outside of a disk of {self.size} bytes")


@dataclass(slots=True)
class Grant:
    """The right to read or write, until it is revoked."""

    what: str
    revoked: bool = False

    def check(self) -> None:
        if self.revoked:
            raise Unavailable(f"{self.what} was revoked: open it again if it is still yours")


class FakeReader:
    """Reads frozen content; `base` are the pages of the state that changes are told against."""

    def __init__(self, disk: FakeDisk, grant: Grant, base: FakeDisk | None = None) -> None:
        self._disk = disk
        self._grant = grant
        self._base = base

    @property
    def size(self) -> int:
        return self._disk.size

    def extents(self) -> Iterator[Extent]:
        self._grant.check()
        start, kind = 0, None
        for page in range((self.size + PAGE - 1) // PAGE):
            here = self._kind(page)
            if kind is not None and here is not kind:
                yield Extent(offset=start, length=page * PAGE - start, kind=kind)
                start = page * PAGE
            kind = here
        if kind is not None:
            yield Extent(offset=start, length=self.size - start, kind=kind)

    def read(self, offset: int, length: int) -> bytes:
        self._grant.check()
        return self._disk.read(offset, length)

    def close(self) -> None:
        self._grant = Grant(self._grant.what, revoked=True)

    def _kind(self, page: int) -> ExtentKind:
        data = self._disk.pages.get(page)
        if self._base is not None and self._base.pages.get(page) == data:
            return ExtentKind.UNCHANGED
        return ExtentKind.ZERO if data is None else ExtentKind.DATA


class FakeWriter:
    """Writes a volume's bytes under the site's lock for as long as its grant stands."""

    def __init__(self, disk: FakeDisk, grant: Grant, lock: RLock) -> None:
        self._disk = disk
        self._grant = grant
        self._lock = lock

    @property
    def size(self) -> int:
        return self._disk.size

    def write(self, offset: int, data: bytes) -> None:
        self._do(lambda: self._disk.write(offset, data))

    def zero(self, offset: int, length: int) -> None:
        self._do(lambda: self._disk.zero(offset, length))

    def finish(self) -> None:
        self._do(lambda: None)

    def close(self) -> None:
        with self._lock:
            self._grant.revoked = True

    def _do(self, change: Callable[[], None]) -> None:
        with self._lock:
            self._grant.check()
            change()
