"""What surrounds the packs: signed heads and their chains, index segments, objects of nobody."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TypeVar
from uuid import UUID

from controlplane.domain.errors import Integrity, NotFound
from controlplane.domain.ids import PointId
from controlplane.domain.vault import DiskCopied, PointRecord
from controlplane.vault.flaws import Flaws
from controlplane.vault.grouped import Groups
from controlplane.vault.heads import HEADS, head_hash, read_head
from controlplane.vault.nouns import CopyStopped
from controlplane.vault.ports import KeyDocuments, Keys, ObjectStore, Signer, VaultRecords
from controlplane.vault.published import Published
from controlplane.vault.wrapped import doubtful

_SOME = 500
_AT_ONCE = 8
T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, slots=True, kw_only=True)
class Papers:
    """Findings go to `flaws`; CopyStopped once `stopped` answers true."""

    records: VaultRecords
    objects: ObjectStore
    keys: Keys
    signer: Signer
    flaws: Flaws
    wrapped: KeyDocuments | None
    replica: ObjectStore | None
    stopped: Callable[[], bool]

    def heads(
        self,
        points: Iterable[PointRecord],
        read_root: Callable[[PointRecord], tuple[DiskCopied, ...]],
    ) -> None:
        """Of every retained point head and root, of every instance the whole chain of heads."""
        looks = self._ahead(partial(self._trouble, read_root=read_root), points)
        doubtful = [record for record, why in looks if why]
        groups = Groups()
        for folder in self._folders():
            self._heed()
            self._chain(folder, groups)
        self._groups(groups)
        # A point that was just committed had no head in the store yet, one just forgotten no root.
        for record in doubtful:
            why = self._trouble(record, read_root)
            if why and self.records.point(record.point) is not None:
                what = f"recovery point {record.point} of instance {record.instance}"
                self.flaws.head(what, why)

    def segments(self, domain: str) -> None:
        """Whether the domain's index segments open."""
        published = Published(self.objects, self.keys)
        for name in self._each(published.names(domain)):
            try:
                published.look(domain, name)
            except Integrity as e:
                self.flaws.segment(name, str(e))
            except NotFound:
                continue  # removed in this moment

    def keys_wrapped(self) -> None:
        """Whether each wrapped key is there, in case the database is lost, and is what it was."""
        if self.wrapped is None:
            return
        for name, why in self._each(doubtful(self.wrapped, self.objects, self.replica)):
            if why is not None:
                self.flaws.wrapped(name, why)

    def strange(self) -> None:
        """Packs and roots that are on no record."""
        for some in _batches(self.objects.names("packs")):
            self._heed()
            packs = {name: _hex(name.rpartition("/")[2]) for name in some}
            known = self.records.states([pack for pack in packs.values() if pack])
            for name, pack in packs.items():
                if pack not in known and self._there(name):
                    self.flaws.strange(name)
        for name in self._each(self.objects.names("points")):
            point = _point(name.split("/")[1])
            if point is None or (not self._kept(point) and self._there(name)):
                self.flaws.strange(name)

    def _trouble(
        self, record: PointRecord, read_root: Callable[[PointRecord], tuple[DiskCopied, ...]]
    ) -> str | None:
        try:
            disks = read_root(record)
        except Integrity as e:
            return str(e)
        return None if disks == record.disks else "its root tells of other disks than its record"

    def _folders(self) -> list[str]:
        return sorted({name.rpartition("/")[0] for name in self.objects.names(HEADS)})

    def _groups(self, seen: Groups) -> None:
        """Of one that was just committed some heads came too late to be seen: look again."""
        broken = seen.broken()
        if not broken:
            return
        again = Groups()
        for name, document in self._ahead(self._read, sorted(self.objects.names(HEADS))):
            with suppress(Integrity):  # told with its chain
                if isinstance(document, bytes):
                    again.see(read_head(document, self.signer, what=name))
        for group, why in again.broken().items():
            if group in broken:
                self.flaws.group(group, why)

    def _chain(self, folder: str, groups: Groups) -> None:
        what = f"the heads {folder}"
        before, expected, head = "", 1, None
        for name, document in self._ahead(self._read, sorted(self.objects.names(folder))):
            try:
                if isinstance(document, NotFound):
                    raise document
                head = read_head(document, self.signer, what=name)
                groups.see(head)
            except (Integrity, NotFound) as e:
                self.flaws.chain(what, str(e))
                return
            if head.sequence != expected or name.rpartition("/")[2] != f"{expected:010d}":
                self.flaws.chain(what, f"number {expected} is missing: lost or hidden")
                return
            if head.previous != before:
                self.flaws.chain(what, f"number {expected} does not follow the one before it")
                return
            before, expected = head_hash(document), expected + 1
        if head is None:
            return
        last = self.records.last(head.tenant, head.instance)
        if last is None or last.sequence < head.sequence:
            self._newer(what, head.sequence, last)
        elif last.sequence > head.sequence + 1:
            text = f"the last is number {head.sequence}, and number {last.sequence} is on record"
            self.flaws.chain(what, text)

    def _newer(self, what: str, number: int, last: PointRecord | None) -> None:
        known = f"the last on record is number {last.sequence}" if last else "none is on record"
        self.flaws.chain(what, f"the store shows number {number}, {known}")

    def _kept(self, point: PointId) -> bool:
        """Retained, or about to be committed."""
        return bool(self.records.point(point) or self.records.sessions(point))

    def _there(self, name: str) -> bool:
        try:
            return self.objects.size(name) >= 0
        except NotFound:
            return False

    def _read(self, name: str) -> bytes | NotFound:
        try:
            return self.objects.get(name)
        except NotFound as e:
            return e

    def _ahead(self, look: Callable[[T], U], items: Iterable[T]) -> Iterator[tuple[T, U]]:
        """Each with what `look` gives, in order; several at a time, as stores are far away."""
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="vault-papers") as pool:
            for some in _batches(iter(items)):
                for item, seen in zip(some, pool.map(look, some), strict=True):
                    self._heed()
                    yield item, seen

    def _each(self, items: Iterable[T]) -> Iterator[T]:
        for item in items:
            self._heed()
            yield item

    def _heed(self) -> None:
        if self.stopped():
            raise CopyStopped


def _batches(items: Iterator[T]) -> Iterator[list[T]]:
    while some := list(islice(items, _SOME)):
        yield some


def _hex(text: str) -> bytes:
    """Nothing for what is no pack's id."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""


def _point(text: str) -> PointId | None:
    try:
        return PointId(UUID(text))
    except ValueError:
        return None
