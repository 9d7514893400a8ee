"""The vault's words that no record keeps: what a copy tells, what a commit and a round give."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from controlplane.domain.disk import MIB, BlockWriter, Mark
from controlplane.domain.ids import InstanceId, PointId
from controlplane.domain.vault import DiskCopied, Moment

BATCH = 4 * MIB


class CopyStopped(Exception):
    """The caller asked a copy to stop; everything sealed before stays for a successor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyProgress:
    """`done` of `total` bytes are dealt with; `read`, `fresh` and `stored` as in LeafDone."""

    total: int
    done: int
    read: int
    fresh: int
    stored: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What of a disk is at a target, durable: ascending ranges (first, end) in bytes.

    `bytes` were written in all attempts together, zeros aside.
    """

    ranges: tuple[tuple[int, int], ...] = ()
    bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Into:
    """A target's disk that is to become what a copy reads, while it reads it.

    What `writer` had before is overwritten, beyond the source's length with zeros. `reached` is
    told now and then, from another thread, one at a time; an attempt that goes on `since` then must
    write to the same disk.
    """

    writer: BlockWriter
    since: Written = Written()
    reached: Callable[[Written], None] = lambda _: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One instance's part in a group: its copied `disks` are to be `point`."""

    point: PointId
    disks: tuple[int, ...]
    domain: str
    instance: InstanceId
    attempt: int
    taken: Moment
    mark: Mark | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PointCommitted:
    """What a caller keeps of a commit; `head` goes into the audit log too."""

    point: PointId
    sequence: int
    root: str
    head: bytes
    disks: tuple[DiskCopied, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """One round of collection.

    `locked` packs the store did not let us delete; `why_locked` is what it said of the last one.
    """

    condemned: int
    deleted: int
    locked: int = 0
    why_locked: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalled:
    """What records older than the store took from it.

    `points` are usable again, `forgotten` and `packs_gone` went after the records were written.
    `unreadable` are points that are on record by name only, and why; nothing of them is deleted.
    `broken_groups` names groups of which the store does not show every point's head.
    """

    points: int
    forgotten: int
    packs_gone: int
    unreadable: tuple[str, ...]
    broken_groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicated:
    """One round of bringing the replica up to the vault's store.

    `behind` points are not there yet, the first of them since `oldest`. `mended` objects the first
    store had lost, `renewed` ones the replica had damaged; `troubles` say what could not be copied
    or mended, and why. `kept` of the deletions on record the replica did not let us follow;
    `why_kept` is what it said of the last.
    """

    copied: int
    bytes: int
    removed: int
    kept: int
    why_kept: str
    mended: tuple[str, ...]
    renewed: tuple[str, ...]
    troubles: tuple[str, ...]
    behind: int
    oldest: datetime | None
