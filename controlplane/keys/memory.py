"""Wrapped keys kept in memory, for tests and for one process that keeps nothing."""

import threading

from controlplane.keys.port import KeyId, Purpose, WrappedKey


class MemoryKeys:
    """A `WrappedKeys` that is gone with its process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: dict[KeyId, WrappedKey] = {}

    def get(self, key: KeyId) -> WrappedKey | None:
        with self._lock:
            return self._rows.get(key)

    def put_if_absent(self, row: WrappedKey) -> WrappedKey:
        with self._lock:
            for standing in self._rows.values():
                if _place(standing) == _place(row):
                    return standing
            self._rows[row.name.id] = row
            return row

    def list(self, purpose: Purpose, owner: str) -> tuple[WrappedKey, ...]:
        with self._lock:
            found = [r for r in self._rows.values() if _place(r)[:2] == (purpose, owner)]
        return tuple(sorted(found, key=lambda row: row.name.version))

    def every(self) -> "tuple[WrappedKey, ...]":
        with self._lock:
            return tuple(self._rows.values())


def _place(row: WrappedKey) -> tuple[Purpose, str, int]:
    return row.name.purpose, row.name.owner, row.name.version
