"""The store as other packages ask for it: each call a transaction of its own."""

from typing import TypeAlias

from controlplane.keys.port import KeyId, Purpose, WrappedKey
from controlplane.store.engine import Store

Versions: TypeAlias = tuple[WrappedKey, ...]


class StoredKeys:
    """The keyring's `WrappedKeys`; what `put_if_absent` returns is durable."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def get(self, key: KeyId) -> WrappedKey | None:
        with self._store.read() as tx:
            return tx.keys.get(key)

    def put_if_absent(self, row: WrappedKey) -> WrappedKey:
        with self._store.begin() as tx:
            return tx.keys.put_if_absent(row)

    def list(self, purpose: Purpose, owner: str) -> Versions:
        with self._store.read() as tx:
            return tx.keys.list(purpose, owner)
