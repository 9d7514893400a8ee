"""Disks, their bytes, and the two ends of a copy."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

from controlplane.domain.ids import ArtefactId

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
SECTOR = 512


class DiskFormat(StrEnum):
    """A file that holds a disk.

    QCOW2_ZSTD is qcow2 with zstd clusters, which QEMU reads from 5.1 on; VHD is a dynamic one.
    """

    RAW = "raw"
    QCOW2 = "qcow2"
    QCOW2_ZSTD = "qcow2-zstd"
    VHD = "vhd"

    @property
    def called(self) -> "DiskFormat":
        """What its readers call it: a qcow2 file says itself how its clusters are packed."""
        return DiskFormat.QCOW2 if self is DiskFormat.QCOW2_ZSTD else self


class DiskBus(StrEnum):
    VIRTIO = "virtio"
    SCSI = "scsi"
    SATA = "sata"
    IDE = "ide"


class ExtentKind(StrEnum):
    DATA = "data"
    ZERO = "zero"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """`length` bytes from byte `offset` on; what a reader says of them."""

    offset: int
    length: int
    kind: ExtentKind


class BlockReader(Protocol):
    """Random reading of one disk's frozen content. Used by one thread at a time."""

    @property
    def size(self) -> int:
        """Length in bytes."""
        ...

    def extents(self) -> Iterator[Extent]:
        """The whole length in ascending order, without gaps or overlaps."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes; `offset + length` must not pass `size`."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class ScatterReader(BlockReader, Protocol):
    """A reader that has many requests under way at a time."""

    def read_each(self, parts: Sequence[tuple[int, int]]) -> list[bytes]:
        """What `read` gives for each (offset, length)."""
        ...


def read_each(reader: BlockReader, parts: Sequence[tuple[int, int]]) -> list[bytes]:
    """The bytes of each (offset, length), asked for at once where the reader can."""
    if isinstance(reader, ScatterReader):
        return reader.read_each(parts)
    return [reader.read(offset, length) for offset, length in parts]


@runtime_checkable
class FrameReader(BlockReader, Protocol):
    """A disk that lies in stored chunks of equal length, the last one maybe shorter.

    Used by many threads at a time.
    """

    @property
    def chunk(self) -> int:
        """A chunk's length in bytes, before it was packed."""
        ...

    def frames(self, first: int, count: int) -> list[int | None]:
        """Of `count` chunks from number `first` on: the bytes of each one's zstd frame.

        0 for what is given plain; None where all of it is zero. A last chunk that is shorter than
        the others is given plain.
        """
        ...

    def read_stored(self, chunks: Sequence[int]) -> list[bytes]:
        """Each chunk's frame, or its plain bytes; none of them may be all zero.

        A frame is one whole zstd frame of the chunk's length.
        """
        ...


@runtime_checkable
class ForwardReader(BlockReader, Protocol):
    """A reader whose bytes come in the disk's order: to go back it begins again."""

    @property
    def forward(self) -> bool: ...


def is_forward(reader: BlockReader) -> bool:
    """Whether it should be read upwards, by one thread from the beginning to the end."""
    return isinstance(reader, ForwardReader) and reader.forward


@runtime_checkable
class SharedReader(BlockReader, Protocol):
    """A reader that many threads may use at a time."""

    @property
    def shared(self) -> bool: ...


def is_shared(reader: BlockReader) -> bool:
    """Whether many threads may use it at a time."""
    return isinstance(reader, SharedReader) and reader.shared


class BlockWriter(Protocol):
    """Random writing of one disk. Used by one thread at a time."""

    @property
    def size(self) -> int: ...

    def write(self, offset: int, data: bytes) -> None:
        """Done when `finish` returned; what went wrong may be raised by a later call."""
        ...

    def zero(self, offset: int, length: int) -> None: ...

    def finish(self) -> None:
        """Everything written is durable when this returns."""
        ...

    def close(self) -> None: ...


class BlankWriter:
    """A disk that was made with nothing but zeros, and that only one source is written to.

    Its zeros are there already, and are not sent.
    """

    def __init__(self, writer: BlockWriter) -> None:
        self._writer = writer
        self.write, self.finish, self.close = writer.write, writer.finish, writer.close

    @property
    def size(self) -> int:
        return self._writer.size

    def zero(self, offset: int, length: int) -> None:
        """There is nothing to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """The exact earlier state that a change list is relative to, in the provider's own word."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSource:
    """Bytes that a site is to take in as an image.

    `url` answers GET and HEAD with `length` bytes and honours Range while the operation runs.
    `size` is the virtual disk's length, `length` the file's; both in bytes.
    """

    url: str
    format: DiskFormat
    length: int
    size: int
    sha256: str
    sha512: str
    bootable: bool = True


class ImageState(StrEnum):
    WORKING = "working"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSeen:
    """A staged image at a site. `ref` is the provider's id; `why` its words on a failure.

    `damaged`: it failed because the site got other bytes than the digest says.
    """

    ref: str
    state: ImageState
    epoch: int
    length: int | None = None
    why: str = ""
    damaged: bool = False


class VolumeState(StrEnum):
    WORKING = "working"
    READY = "ready"
    IN_USE = "in-use"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeSpec:
    """A disk to be made. `size` in bytes, rounded up by the site to its own step.

    `image` is the `ref` of a staged image of the same site; None makes an empty disk.
    """

    name: str
    size: int
    image: str | None = None
    storage: str | None = None
    bus: DiskBus = DiskBus.VIRTIO
    bootable: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeSeen:
    """A disk at a site; `size` in bytes as the provider has it (maybe longer than was asked)."""

    ref: str
    size: int
    state: VolumeState
    epoch: int
    attached_to: str | None = None
    why: str = ""


class ExportStage(StrEnum):
    WORKING = "working"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSeen:
    """A disk's content on its way to be read; `size` of the disk in bytes.

    `changed_only` tells that extents mark what is unchanged since the mark that was given; `note`
    says what it waits for, why it failed, or by which way it is read where there are several.
    """

    stage: ExportStage
    size: int
    epoch: int
    changed_only: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotSeen:
    """`failed` says, in the provider's words, why it never will be ready; empty while it may.

    `copying`: its site is seen to copy the disks for it, and takes as long as they are large.
    """

    ref: str
    ready: bool
    epoch: int
    failed: str = ""
    copying: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSource:
    """Which content an export shows: a disk of an instance, a volume, or a snapshot of either.

    Exactly the refs that the driver itself returned; `snapshot` is an artefact of ours.
    """

    volume: str
    instance: str | None = None
    snapshot: ArtefactId | None = None
