"""How fast bytes may come from or go to a site: its limit and the operation's, from their rows."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from threading import Event, Lock
from time import monotonic
from typing import cast

from controlplane.domain.disk import (
    BlockReader,
    BlockWriter,
    Extent,
    is_forward,
    is_shared,
    read_each,
)
from controlplane.domain.hours import limit_at, read_hours
from controlplane.domain.ids import OperationId, SiteName
from controlplane.domain.kinds import facts
from controlplane.domain.operation import Operation
from controlplane.domain.pace import Bucket, Shared
from controlplane.domain.resource import Kind
from controlplane.store.engine import Store
from controlplane.store.tx import Tx

_LOOK_AGAIN = 2.0
_REMEMBERED = 1000


class Bandwidth:
    """What all copies of one process share; each process keeps to the limits by itself.

    Limits are bytes a second in each site's and each operation's `maxBandwidth`, and in what a
    site's `bandwidthHours` say of the present time. They are looked up again every two seconds, so
    that a change meets what runs. At a site's limit operations have equal parts, however many disks
    each of them copies.
    """

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float] = monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._clock = clock
        self._now = now
        self._lock = Lock()
        self._sites: dict[str, Shared] = {}
        self._operations: dict[str, Bucket] = {}
        self._targets: dict[OperationId, SiteName] = {}
        self._limits: dict[str, tuple[float, float | None]] = {}

    def owed(
        self, site: SiteName, operation: OperationId, length: int, *, again: bool = False
    ) -> float:
        """Seconds to wait after `length` bytes between us and the site.

        `again`: at its other site these bytes have met the operation's own limit already.
        """
        of_site = self._limit(f"site {site}", lambda: self._of_site(site))
        own = None
        if not again:
            own = self._limit(f"{operation}", lambda: self._of_operation(operation))
        with self._lock:
            now, waits = self._clock(), [0.0]
            if of_site:
                shared = self._sites.setdefault(site, Shared())
                waits.append(shared.take(operation, length, of_site, now))
            if own:
                bucket = self._operations.setdefault(f"{operation}", Bucket())
                waits.append(bucket.take(length, own, now))
            return max(waits)

    def to_target_of(self, operation: OperationId, length: int) -> float:
        """Seconds to wait after `length` bytes that the operation's target fetched."""
        site = self._targets.get(operation)
        if site is None:
            with self._store.read() as tx:
                target = (tx.operations.get(operation).plan or {}).get("target")
            site = SiteName(cast("dict[str, str]", target or {}).get("site", ""))
            if len(self._targets) >= _REMEMBERED:
                self._targets.clear()
            self._targets[operation] = site
        return self.owed(site, operation, length)

    def _limit(self, name: str, look: Callable[[], float | None]) -> float | None:
        with self._lock:
            known = self._limits.get(name)
        now = self._clock()
        if known is None or now - known[0] >= _LOOK_AGAIN:
            known = (now, look())
            with self._lock:
                self._limits = {n: k for n, k in self._limits.items() if now - k[0] < _LOOK_AGAIN}
                self._limits[name] = known
                since = now - 2 * _LOOK_AGAIN
                self._sites = {n: s for n, s in self._sites.items() if s.due >= since}
                self._operations = {n: b for n, b in self._operations.items() if b.due >= since}
        return known[1]

    def _of_site(self, site: SiteName) -> float | None:
        with self._store.read() as tx:
            return _site_limit(tx, site, self._now())

    def _of_operation(self, operation: OperationId) -> float | None:
        with self._store.read() as tx:
            return _own_limit(tx.operations.get(operation))


def narrowest(
    tx: Tx, operation: Operation, sites: Iterable[SiteName], now: datetime
) -> float | None:
    """The least of an operation's limits as of now, in bytes a second; None without any."""
    limits = [_own_limit(operation), *(_site_limit(tx, site, now) for site in sites)]
    return min((limit for limit in limits if limit), default=None)


def _site_limit(tx: Tx, site: SiteName, now: datetime) -> float | None:
    found = tx.resources.find(facts(Kind.SITE).key(site, None, None))
    if found is None:
        return None
    always = cast("float | None", found.spec.get("maxBandwidth"))
    hours = cast("list[dict[str, object]]", found.spec.get("bandwidthHours", []))
    return limit_at(now, always, read_hours(hours))


def _own_limit(operation: Operation) -> float | None:
    return cast("float | None", operation.order.get("maxBandwidth"))


class Pace:
    """One copy's part of it, until `told` to stop: then nothing waits any more."""

    def __init__(
        self, bandwidth: Bandwidth, site: SiteName, operation: OperationId, told: Event,
        *, again: bool = False,
    ) -> None:  # fmt: skip
        self._bandwidth = bandwidth
        self._site = site
        self._operation = operation
        self._told = told
        self._again = again

    def passed(self, length: int) -> None:
        """So many bytes went by: wait for their turn."""
        owed = self._bandwidth.owed(self._site, self._operation, length, again=self._again)
        if owed > 0:
            self._told.wait(owed)


class PacedReader:
    """A reader that keeps to a pace."""

    def __init__(self, reader: BlockReader, pace: Pace) -> None:
        self._reader = reader
        self._pace = pace

    @property
    def size(self) -> int:
        return self._reader.size

    @property
    def forward(self) -> bool:
        return is_forward(self._reader)

    @property
    def shared(self) -> bool:
        return is_shared(self._reader)

    def extents(self) -> Iterator[Extent]:
        return self._reader.extents()

    def read(self, offset: int, length: int) -> bytes:
        return self.read_each([(offset, length)])[0]

    def read_each(self, parts: Sequence[tuple[int, int]]) -> list[bytes]:
        found = read_each(self._reader, parts)
        self._pace.passed(sum(length for _, length in parts))
        return found

    def close(self) -> None:
        self._reader.close()


class PacedWriter:
    """A writer that keeps to a pace; zeros cost no bytes."""

    def __init__(self, writer: BlockWriter, pace: Pace) -> None:
        self._writer = writer
        self._pace = pace

    @property
    def size(self) -> int:
        return self._writer.size

    def write(self, offset: int, data: bytes) -> None:
        self._writer.write(offset, data)
        self._pace.passed(len(data))

    def zero(self, offset: int, length: int) -> None:
        self._writer.zero(offset, length)

    def finish(self) -> None:
        self._writer.finish()

    def close(self) -> None:
        self._writer.close()
