"""The guests of a simulated site: what they do with disk, console and agent while powered on.

One scheduler thread drives all guests of a site. A guest boots `boot_seconds` after its start: it
reads the boot disk, and when that has a journal (see `journal.py`, whose names are exported here
too) it raises the boot counter and then appends records: write, flush, and only then is the witness
told "durable".

`stop` is the power plug: once it returned, nothing is written any more. `shutdown` asks politely
and calls `on_down` when the guest went down by itself.
"""

import heapq
import itertools
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from drivers.simulators.faults import Profile
from drivers.simulators.journal import (
    Journal,
    NoBootSector,
    Record,
    boots_offset,
    boots_sector,
    format_journal,
    lost_writes,
    read_journal,
    record_offset,
    record_sector,
)
from drivers.simulators.witness import Witness

__all__ = [
    "Disk",
    "Guests",
    "Journal",
    "Nic",
    "NoBootSector",
    "Record",
    "format_journal",
    "lost_writes",
    "read_journal",
]

_CONSOLE_LINES = 500
_BLOCK, _SCRIBBLE_FROM = 64 << 10, 2 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """The boot disk as the guest sees it."""

    read: Callable[[int, int], bytes]  # offset, length
    write: Callable[[int, bytes], None]  # offset, data
    flush: Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Nic:
    mac: str
    address: str | None = None
    connected: bool = True


class _Guest:
    """One powered-on instance; every field is guarded by its lock."""

    def __init__(
        self, *, native: str, name: str, disk: Disk | None, nics: tuple[Nic, ...], agent: bool
    ) -> None:
        self.lock = threading.Lock()
        self.native, self.name, self.disk, self.nics, self.agent = native, name, disk, nics, agent
        self.journal: Journal | None = None
        self.sequence = self.boots = 0
        self.run: int | None = None
        self.on = True
        self.up = self.paused = self.frozen = self.leaving = False
        self.down = threading.Event()


class Guests:
    """All guests of one site."""

    def __init__(self, site: str, *, profile: Profile, witness: Witness | None = None) -> None:
        self.site, self.profile, self.witness = site, profile, witness
        self._ticket = itertools.count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._wake = threading.Condition()
        self._closing = False
        self._guests: dict[str, _Guest] = {}
        self._consoles: dict[str, deque[str]] = {}
        # Guests whose agent never answers that it froze their file systems.
        self.hanging: set[str] = set()
        if witness is not None:
            witness.site_started(site)
        self._thread = threading.Thread(target=self._schedule, name=f"guests-{site}", daemon=True)
        self._thread.start()

    # -- power ---------------------------------------------------------------------------------

    def start(
        self,
        native: str,
        *,
        name: str,
        disk: Disk | None,
        nics: tuple[Nic, ...] = (),
        agent: bool = False,
    ) -> None:
        """Power on; returns at once, the guest is up after the profile's boot time."""
        guest = _Guest(native=native, name=name, disk=disk, nics=nics, agent=agent)
        with self._wake:
            if native in self._guests:
                raise ValueError(f"{self.site}: {native} is already powered on")
            self._guests[native] = guest
            self._consoles.setdefault(native, deque(maxlen=_CONSOLE_LINES))
        with guest.lock:
            if guest.on:
                self._record(guest)
        self._later(self.profile.boot_seconds, lambda: self._boot(guest))

    def stop(self, native: str) -> None:
        """Pull the plug; a guest that is off already stays so."""
        with self._wake:
            guest = self._guests.pop(native, None)
        if guest is not None:
            self._off(guest)

    def shutdown(self, native: str, *, on_down: Callable[[], None] = lambda: None) -> bool:
        """Ask the guest to go down; False when nobody is up to hear it."""
        guest = self._guests.get(native)
        if guest is None:
            return False
        with guest.lock:
            if not guest.up or guest.paused or guest.leaving:
                return False
            guest.leaving = True
        self._say(guest, "power button pressed, going down")
        self._later(self.profile.shutdown_seconds, lambda: self._leave(guest, on_down))
        return True

    def pause(self, native: str) -> None:
        """Freeze the guest; once this returned, nothing is written until `resume`."""
        guest = self._guests[native]
        with guest.lock:
            guest.paused = True

    def resume(self, native: str) -> None:
        guest = self._guests[native]
        with guest.lock:
            guest.paused = False

    def freeze(self, native: str, *, frozen: bool) -> bool:
        """Have the agent freeze or thaw the file systems; False when it does not say that it did.

        Nothing is written to what is frozen, and what was written is on the disk.
        """
        guest = self._guests[native]
        with guest.lock:
            guest.frozen = frozen
            if guest.disk is not None:
                guest.disk.flush()
        return not frozen or native not in self.hanging

    def set_nics(self, native: str, nics: tuple[Nic, ...]) -> None:
        """Plug and unplug links while the guest runs."""
        guest = self._guests.get(native)
        if guest is None:
            return
        with guest.lock:
            guest.nics = nics
            if guest.run is not None and self.witness is not None:
                self.witness.nics_changed(guest.run, connected=_connected(nics))
        self._say(guest, "network links: " + (_described(nics) or "none"))

    def close(self) -> None:
        """Pull every plug and end the scheduler."""
        for native in tuple(self._guests):
            self.stop(native)
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    # -- questions -----------------------------------------------------------------------------

    def is_on(self, native: str) -> bool:
        return native in self._guests

    def is_up(self, native: str) -> bool:
        """Whether the guest has booted and still runs."""
        guest = self._guests.get(native)
        return guest is not None and guest.up

    def ping(self, native: str) -> bool:
        """Whether the guest agent answers."""
        guest = self._guests.get(native)
        return guest is not None and guest.agent and guest.up and not guest.paused

    def is_frozen(self, native: str) -> bool:
        guest = self._guests.get(native)
        return guest is not None and guest.frozen

    def reachable(self, native: str) -> bool:
        """Whether a probe from its network finds the guest."""
        guest = self._guests.get(native)
        return guest is not None and guest.up and not guest.paused and _connected(guest.nics)

    def journals(self) -> dict[str, Journal]:
        """The journals on the disks of all powered-on guests that keep one."""
        found: dict[str, Journal] = {}
        for native, guest in list(self._guests.items()):
            with guest.lock:
                journal = read_journal(guest.disk.read) if guest.on and guest.disk else None
            if journal is not None:
                found[native] = journal
        return found

    def console(self, native: str) -> str:
        """What the instance printed since the site's process started, over all its boots."""
        return "".join(f"{line}\n" for line in tuple(self._consoles.get(native, ())))

    # -- what a guest does ---------------------------------------------------------------------

    def _record(self, guest: _Guest) -> None:
        """Read the disk's identity at power-on: the witness knows the run from its start."""
        try:
            guest.journal = read_journal(guest.disk.read) if guest.disk else None
        except NoBootSector:
            self._say(guest, "no boot sector")
        except (OSError, ValueError) as error:
            self._say(guest, f"boot disk: {error}")
        identity = f"{self.site}/{guest.native}"
        if guest.journal is not None:
            identity = guest.journal.identity.hex()
            guest.boots, guest.sequence = guest.journal.boots + 1, guest.journal.last
            guest.journal = replace(guest.journal, records=())  # the ring stays on the disk
        if self.witness is not None:
            guest.run = self.witness.guest_started(
                identity=identity,
                site=self.site,
                native=guest.native,
                boots=guest.boots,
                connected=_connected(guest.nics),
            )

    def _boot(self, guest: _Guest) -> None:
        with guest.lock:
            if not guest.on:
                return
            if guest.paused:
                self._later(self.profile.boot_seconds, lambda: self._boot(guest))
                return
            try:
                if guest.journal is not None and guest.disk is not None:
                    guest.disk.write(boots_offset(guest.journal), boots_sector(guest.boots))
                    guest.disk.flush()
            except OSError as error:
                self._say(guest, f"I/O error on the boot disk, mounted read-only: {error}")
                guest.journal = None
            guest.up = True
            self._say(
                guest,
                f"FEDGUEST up name={guest.name} boots={guest.boots} journal={guest.sequence}"
                f" {_described(guest.nics) or 'ip=none mac=none'}",
            )
            self._say(guest, f"{guest.name} login:")
        if guest.journal is not None:
            self._write(guest)

    def _write(self, guest: _Guest) -> None:
        """Append one record and come back for the next."""
        with guest.lock:
            if not guest.on or guest.journal is None or guest.disk is None:
                return
            held = guest.paused or guest.frozen
            if not held and not self._appended(guest, guest.journal, guest.disk):
                return
        self._later(1 / self.profile.journal_rate, lambda: self._write(guest))

    def _appended(self, guest: _Guest, journal: Journal, disk: Disk) -> bool:
        record = Record(sequence=guest.sequence + 1, boot=guest.boots, time_ns=time.time_ns())
        try:
            disk.write(
                record_offset(journal, record.sequence), record_sector(journal.identity, record)
            )
            disk.flush()
        except OSError as error:
            self._say(guest, f"I/O error on the boot disk, mounted read-only: {error}")
            return False
        guest.sequence = record.sequence
        self._scribble(journal, disk)
        if self.witness is not None and guest.run is not None:
            self.witness.wrote_durable(guest.run, sequence=record.sequence, boot=record.boot)
        return True

    def _scribble(self, journal: Journal, disk: Disk) -> None:
        """What else a busy guest writes: blocks here and there, before its journal."""
        left = int(self.profile.scribble_rate / self.profile.journal_rate)
        while left > 0 and journal.offset > _SCRIBBLE_FROM + _BLOCK:
            block = random.randrange(_SCRIBBLE_FROM // _BLOCK, journal.offset // _BLOCK)
            disk.write(block * _BLOCK, random.randbytes(min(left, _BLOCK)))
            left -= _BLOCK

    def _leave(self, guest: _Guest, on_down: Callable[[], None]) -> None:
        with self._wake:
            if self._guests.get(guest.native) is not guest:
                return
            del self._guests[guest.native]
        with guest.lock:
            if guest.journal is not None and guest.disk is not None:
                self._appended(guest, guest.journal, guest.disk)
        self._say(guest, f"down at journal={guest.sequence}")
        self._off(guest)
        on_down()

    def _off(self, guest: _Guest) -> None:
        with guest.lock:
            guest.on = guest.up = False
            if guest.run is not None and self.witness is not None:
                self.witness.guest_stopped(guest.run)
                guest.run = None

    def _say(self, guest: _Guest, line: str) -> None:
        self._consoles[guest.native].append(line)

    # -- the scheduler -------------------------------------------------------------------------

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        with self._wake:
            heapq.heappush(self._due, (time.monotonic() + seconds, next(self._ticket), act))
            self._wake.notify()

    def _schedule(self) -> None:
        while True:
            with self._wake:
                while not self._closing:
                    wait = self._due[0][0] - time.monotonic() if self._due else None
                    if wait is not None and wait <= 0:
                        break
                    self._wake.wait(wait)
                if self._closing:
                    return
                _, _, act = heapq.heappop(self._due)
            act()


def _connected(nics: tuple[Nic, ...]) -> bool:
    return any(nic.connected for nic in nics)


def _described(nics: tuple[Nic, ...]) -> str:
    return " ".join(
        f"ip={nic.address or 'none'} mac={nic.mac}" + ("" if nic.connected else " (isolated)")
        for nic in nics
    )
