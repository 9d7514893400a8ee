"""A stream: the target is the source, the digest is the vault's, whatever breaks on the way."""

import random
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.disk import KIB, MIB, Extent, ExtentKind
from controlplane.domain.errors import Integrity, Invalid, Unavailable
from controlplane.vault import durable, streaming
from controlplane.vault.digest import digest
from controlplane.vault.nouns import CopyStopped
from controlplane.vault.streaming import Reached, stream

BLOCK = 64 * KIB
SPAN = 4 * BLOCK
KINDS = st.sampled_from([*ExtentKind, "explicit zeros"])
PIECES = st.lists(st.tuples(KINDS, st.integers(1, 5 * BLOCK)), max_size=12)


@pytest.fixture(autouse=True)
def small_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "SPAN", SPAN)


class Source:
    """A disk of pieces, with extents as they were cut; `forward` fails on a step back."""

    def __init__(self, pieces: list[tuple[object, int]], seed: int = 1) -> None:
        chance, at = random.Random(seed), 0
        parts, self.told = [], []
        for kind, length in pieces:
            zero = kind in {ExtentKind.ZERO, "explicit zeros"}
            parts.append(bytes(length) if zero else chance.randbytes(length))
            shown = kind if isinstance(kind, ExtentKind) else ExtentKind.DATA
            self.told.append(Extent(offset=at, length=length, kind=shown))
            at += length
        self.data = b"".join(parts)
        self.read_bytes = 0
        self.forward = False
        self.at = 0

    @property
    def size(self) -> int:
        return len(self.data)

    def extents(self) -> Iterator[Extent]:
        yield from self.told

    def read(self, offset: int, length: int) -> bytes:
        if self.forward:
            assert offset >= self.at, "it went back"
            self.at = offset + length
        self.read_bytes += length
        return self.data[offset : offset + length]

    def close(self) -> None:
        """Nothing is held."""


class Target:
    """A disk full of somebody else's bytes; the write number `fails` fails and `crash` may follow.

    What is written is there after `finish`; a crash takes what is not.
    """

    def __init__(self, size: int, fails: int | None = None) -> None:
        self.durable = bytearray(b"\xa5" * size)
        self.waiting: list[tuple[int, bytes]] = []
        self.fails = fails
        self.writes = 0

    @property
    def size(self) -> int:
        return len(self.durable)

    def write(self, offset: int, data: bytes) -> None:
        self.writes += 1
        if self.writes == self.fails:
            raise Unavailable("the target's server is gone")
        self.waiting.append((offset, bytes(data)))

    def zero(self, offset: int, length: int) -> None:
        self.write(offset, bytes(length))

    def finish(self) -> None:
        for offset, data in self.waiting:
            assert offset + len(data) <= self.size
            self.durable[offset : offset + len(data)] = data
        self.waiting = []

    def crash(self) -> None:
        self.waiting, self.fails = [], None

    def close(self) -> None:
        """Nothing is held."""


def assert_is(target: Target, source: Source) -> None:
    assert bytes(target.durable[: source.size]) == source.data
    assert not any(target.durable[source.size :])
    assert not target.waiting


@settings(deadline=None)
@given(pieces=PIECES, beyond=st.sampled_from([0, 1, 512, 3 * SPAN + 7]), forward=st.booleans())
def test_the_target_is_the_source_and_the_digest_is_the_vaults(
    *, pieces: list[tuple[object, int]], beyond: int, forward: bool
) -> None:
    source = Source(pieces)
    source.forward = forward
    target = Target(source.size + beyond)
    done = stream(source, target)
    assert_is(target, source)
    assert done.size == source.size
    assert done.bytes_read == source.read_bytes
    source.forward = False
    assert done.digest == digest(source, length=source.size)


@settings(deadline=None)
@given(pieces=PIECES, fails=st.integers(1, 20), beyond=st.sampled_from([0, 512]))
def test_whoever_goes_on_after_a_crash_ends_with_the_same(
    pieces: list[tuple[object, int]], fails: int, beyond: int
) -> None:
    """What was told to be reached is durable: a crash of the target takes all the rest."""
    source, told = Source(pieces), [Reached()]
    target = Target(source.size + beyond, fails=fails)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "EVERY", 0.0)
        try:
            first = stream(source, target, reached=told.append)
        except Unavailable:
            first = None
        target.crash()
        again = stream(source, target, since=told[-1])
    assert_is(target, source)
    assert again.digest == digest(source, length=source.size)
    assert first is None or (first.digest, told[-1].spans) == (
        again.digest,
        -(-source.size // SPAN),
    )


def test_what_is_durable_is_not_read_again() -> None:
    source, told = Source([(ExtentKind.DATA, 20 * SPAN)]), list[Reached]()
    stream(source, Target(source.size), reached=told.append)
    assert told[-1].spans == 20
    again = Source([(ExtentKind.DATA, 20 * SPAN)])
    target = Target(source.size)
    target.durable[:] = source.data
    assert stream(again, target, since=told[-1]).bytes_read == source.size
    assert again.read_bytes == 0


def test_a_short_read_is_no_part_of_a_copy() -> None:
    source = Source([(ExtentKind.DATA, 3 * SPAN)])
    source.read = lambda offset, length: source.data[offset : offset + length - 1]  # type: ignore[method-assign]
    with pytest.raises(Integrity, match="instead of"):
        stream(source, Target(source.size))


def test_a_shorter_target_is_refused_before_a_byte_is_read() -> None:
    source = Source([(ExtentKind.DATA, SPAN)])
    with pytest.raises(Invalid, match="fewer than"):
        stream(source, Target(SPAN - 1))
    assert source.read_bytes == 0


def test_a_stop_is_heeded_and_says_nothing_is_whole() -> None:
    source = Source([(ExtentKind.DATA, 40 * MIB)])
    target, stop = Target(source.size + SPAN), threading.Event()
    write = target.write

    def slow(offset: int, data: bytes) -> None:
        stop.set()
        threading.Event().wait(0.1)
        write(offset, data)

    target.write = slow  # type: ignore[method-assign]
    with pytest.raises(CopyStopped):
        stream(source, target, cancelled=stop.is_set)
    assert target.waiting, "nobody finished it"


def test_a_reader_waits_for_its_writer() -> None:
    """Never more than a stride a thread under way, however slow the target is."""
    source, target = Source([(ExtentKind.DATA, 64 * MIB)]), Target(64 * MIB)
    go_on, asked, ahead = threading.Event(), 0, list[int]()
    write = target.write

    def stuck(offset: int, data: bytes) -> None:
        go_on.wait()
        write(offset, data)

    def look(_: object) -> None:
        nonlocal asked
        asked += 1
        if asked == 3:
            ahead.append(source.read_bytes)
            go_on.set()

    target.write = stuck  # type: ignore[method-assign]
    stream(source, target, progress=look)
    assert 0 < ahead[0] <= streaming._WORKERS * streaming._MOST
    assert_is(target, source)
