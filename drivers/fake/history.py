"""Every power-on, power-off and change of link at any fake site, in one global order."""

from dataclasses import dataclass
from threading import Lock

from controlplane.domain.ids import ArtefactId, InstanceId


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What the copy `artefact` of `instance` at `site` is from `seq` on."""

    seq: int
    site: str
    artefact: ArtefactId
    instance: InstanceId
    on: bool
    connected: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """More than one copy of `instance` ran at `seq`; `connected` if more than one had links."""

    seq: int
    instance: InstanceId
    copies: tuple[tuple[str, ArtefactId], ...]
    connected: bool


class History:
    """What ran where, across all sites of the process; safe for many threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._events: list[Event] = []
        self._next = 1

    def record(
        self, *, site: str, artefact: ArtefactId, instance: InstanceId, on: bool, connected: bool
    ) -> Event:
        with self._lock:
            event = Event(
                seq=self._next,
                site=site,
                artefact=artefact,
                instance=instance,
                on=on,
                connected=connected,
            )
            self._next += 1
            self._events.append(event)
            return event

    def events(self, instance: InstanceId | None = None) -> tuple[Event, ...]:
        with self._lock:
            return tuple(e for e in self._events if instance in {None, e.instance})

    def overlaps(self, instance: InstanceId | None = None) -> tuple[Overlap, ...]:
        """Each moment at which a copy came up beside a running copy of the same instance."""
        running: dict[InstanceId, dict[tuple[str, ArtefactId], bool]] = {}
        found = []
        for event in self.events(instance):
            copies = running.setdefault(event.instance, {})
            copy = (event.site, event.artefact)
            if not event.on:
                copies.pop(copy, None)
                continue
            copies[copy] = event.connected
            if len(copies) > 1:
                found.append(
                    Overlap(
                        seq=event.seq,
                        instance=event.instance,
                        copies=tuple(copies),
                        connected=sum(copies.values()) > 1,
                    )
                )
        return tuple(found)

    def clear(self) -> None:
        with self._lock:
            self._events.clear()


HISTORY = History()
