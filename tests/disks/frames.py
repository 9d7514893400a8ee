"""A disk in stored chunks, as a vault has it: some in zstd frames, some plain, some all zero."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import zstandard

from controlplane.domain.disk import Extent, ExtentKind


class Frames:
    """`pattern` is a letter a chunk: Z zeros, T text (a frame), R random (plain), S one byte (a
    tiny frame). The last chunk may be cut by `less` bytes."""

    def __init__(self, pattern: str, *, chunk: int = 65536, less: int = 0, seed: int = 0) -> None:
        rng = random.Random(seed)
        made = {
            "S": lambda: bytes([rng.randrange(1, 256)]) * chunk,
            "R": lambda: rng.randbytes(chunk),
            "T": lambda: (b"%030x of a line of text\n" % rng.getrandbits(120) * chunk)[:chunk],
            # A frame of more than half its chunk.
            "M": lambda: rng.randbytes(chunk * 2 // 3).ljust(chunk, b"m"),
        }
        parts = [b"" if letter == "Z" else made[letter]() for letter in pattern]
        self._take(parts, max(len(pattern) * chunk - less, 0), chunk)

    @classmethod
    def of(cls, data: bytes) -> "Frames":
        """The disk with that content, in chunks of 64 KiB."""
        made = cls("")
        parts = [data[at : at + made.chunk] for at in range(0, len(data), made.chunk)]
        made._take([part if any(part) else b"" for part in parts], len(data), made.chunk)
        return made

    def _take(self, parts: list[bytes], size: int, chunk: int) -> None:
        self.size, self.chunk = size, chunk
        self._plain: list[bytes | None] = []
        self.stored: list[bytes | None] = []
        pack = zstandard.ZstdCompressor(level=1, write_content_size=True)
        for number, whole in enumerate(parts):
            part = whole[: size - number * chunk]
            frame = pack.compress(part)
            small = len(frame) < len(part) * 0.97 and len(part) == chunk
            self._plain.append(part or None)
            self.stored.append((frame if small else part) or None)
        self.closed = False

    @property
    def data(self) -> bytes:
        return self.read(0, self.size)

    def write_to(self, path: Path) -> None:
        """As a raw file of whole sectors, with holes."""
        with path.open("wb") as file:
            file.truncate(-(-self.size // 512) * 512)
            for number, part in enumerate(self._plain):
                if part is not None:
                    file.seek(number * self.chunk)
                    file.write(part)

    def extents(self) -> Iterator[Extent]:
        for number, stored in enumerate(self.stored):
            length = min(self.chunk, self.size - number * self.chunk)
            kind = ExtentKind.ZERO if stored is None else ExtentKind.DATA
            yield Extent(offset=number * self.chunk, length=length, kind=kind)

    def read(self, offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= self.size
        first, end = offset // self.chunk, -(-(offset + length) // self.chunk)
        parts = [part or bytes(self.chunk) for part in self._plain[first:end]]
        return b"".join(parts)[offset - first * self.chunk :][:length]

    def frames(self, first: int, count: int) -> list[int | None]:
        assert first + count <= len(self.stored)
        return [None if s is None else self._length(s) for s in self.stored[first : first + count]]

    def _length(self, stored: bytes) -> int:
        return len(stored) if stored.startswith(b"\x28\xb5\x2f\xfd") else 0

    def read_stored(self, chunks: Sequence[int]) -> list[bytes]:
        found = [self.stored[n] for n in chunks]
        assert all(body is not None for body in found)
        return found  # type: ignore[return-value]

    def close(self) -> None:
        self.closed = True
