"""The words of the vault that its records are kept in: packs, references, sessions, points."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from controlplane.domain.disk import GIB, KIB, MIB
from controlplane.domain.ids import GroupId, InstanceId, PointId, TenantName

BLOCK = 64 * KIB
FANOUT = 512
_LARGE = 2 * 1024 * GIB
_HUGE = 8 * 1024 * GIB

CONDEMNED = "condemned"
RACED = "raced"


class PackState(StrEnum):
    """`open`: being written. `sealed`: complete. `verified`: read back. `condemned`: to go."""

    OPEN = "open"
    SEALED = "sealed"
    VERIFIED = "verified"
    CONDEMNED = "condemned"


class Depth(StrEnum):
    """How much a check reads: tables and manifests; a share of all blobs too; every blob."""

    STRUCTURE = "structure"
    SAMPLE = "sample"
    FULL = "full"


class Ref(NamedTuple):
    """Where one blob lies: blob number `position` of `pack`; `digest` is of its plain content."""

    pack: bytes
    position: int
    id: bytes
    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a disk is cut: `size` and `chunk` in bytes; fixed when its first copy begins."""

    size: int
    chunk: int

    @classmethod
    def of(cls, size: int) -> "Layout":
        if size > _HUGE:
            return cls(size=size, chunk=MIB)
        return cls(size=size, chunk=256 * KIB if size > _LARGE else BLOCK)

    @property
    def chunks(self) -> int:
        return -(-self.size // self.chunk)

    @property
    def leaf(self) -> int:
        """Bytes that one leaf page of the manifest covers."""
        return self.chunk * FANOUT

    @property
    def leaves(self) -> int:
        return -(-self.chunks // FANOUT)

    def chunk_length(self, number: int) -> int:
        return min(self.chunk, self.size - number * self.chunk)

    def leaf_chunks(self, leaf: int) -> int:
        return min(FANOUT, self.chunks - leaf * FANOUT)

    def leaf_length(self, leaf: int) -> int:
        return min(self.leaf, self.size - leaf * self.leaf)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafDone:
    """One leaf page whose chunks all lie in sealed packs; `ref` is None where all is zero.

    `chunks` counts data chunks, `fresh` their bytes that were new to the vault, `stored` the
    bytes those took in packs, `read` the bytes read from the source.
    """

    index: int
    ref: Ref | None
    chunks: int
    read: int
    fresh: int
    stored: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskCopied:
    """A disk that is wholly in the vault. `top` is the manifest's root page; None if all zero."""

    disk: int
    size: int
    chunk: int
    digest: str
    top: Ref | None
    chunks: int
    bytes_read: int
    bytes_new: int
    bytes_stored: int

    @property
    def layout(self) -> Layout:
        return Layout(size=self.size, chunk=self.chunk)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """The right to write one disk of one point. A later `begin` makes `token` worthless."""

    point: PointId
    disk: int
    domain: str
    attempt: int
    token: str
    layout: Layout
    covered: Mapping[int, LeafDone] = field(default_factory=dict)
    copied: DiskCopied | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PackNew:
    """A pack that `session` is about to write."""

    pack: bytes
    domain: str
    session: Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """A blob that failed its check; `position` is None when the whole pack is unreadable."""

    domain: str
    pack: bytes
    position: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """When a snapshot was taken: not before it was asked for, not after it was answered; UTC."""

    asked: datetime
    answered: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class InGroup:
    """A point that was taken beside others: one of `members` under the same `group`."""

    group: GroupId
    members: int
    taken: Moment


@dataclass(frozen=True, slots=True, kw_only=True)
class PointRecord:
    """A committed recovery point; `head` is the signed document and `root` names its contents."""

    point: PointId
    domain: str
    tenant: TenantName
    instance: InstanceId
    sequence: int
    head: bytes
    root: str
    disks: tuple[DiskCopied, ...]
    committed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Commitment:
    """A point that is about to stand, the packs that it needs, and the attempt that asks."""

    record: PointRecord
    packs: frozenset[bytes]
    attempt: int
