"""Every key that is made, rotated or opened leaves a line in the audit log."""

from queue import SimpleQueue
from threading import Event, Thread

from controlplane.domain.audit import AuditEntry
from controlplane.domain.errors import Unavailable
from controlplane.keys.port import KeyAct, KeyName, tenant_of
from controlplane.services.ports import Clock
from controlplane.store.engine import Store

_AGAIN = 1.0


class KeyTrail:
    """Writes from a thread of its own: keys are opened in the middle of everything.

    What is noted while the database is away is tried again; `close` tries each once more.
    """

    def __init__(self, store: Store, clock: Clock, *, process: str) -> None:
        self._store = store
        self._clock = clock
        self._process = process
        self._noted: SimpleQueue[AuditEntry | None] = SimpleQueue()
        self._closing = Event()
        self._thread = Thread(target=self._write, name="key-trail", daemon=True)
        self._thread.start()

    def observe(self, act: KeyAct, name: KeyName) -> None:
        """The keyring's observer."""
        self._noted.put(
            AuditEntry(
                sequence=0,
                at=self._clock.now(),
                actor=self._process,
                tenant=tenant_of(name.owner),
                action=f"key.{act}",
                subject=f"{name.purpose}/{name.owner}",
                outcome="done",
                detail={"key": str(name.id), "version": str(name.version)},
            )
        )

    def close(self) -> None:
        self._closing.set()
        self._noted.put(None)
        self._thread.join()

    def _write(self) -> None:
        while (entry := self._noted.get()) is not None:
            while not self._written(entry) and not self._closing.wait(_AGAIN):
                continue

    def _written(self, entry: AuditEntry) -> bool:
        try:
            with self._store.begin() as tx:
                tx.audit.append(entry, entry.at)
        except Unavailable:
            return False
        return True
