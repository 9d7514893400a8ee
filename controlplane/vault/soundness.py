"""Whether stored bytes are what they should be: asked before a second store's are relied upon."""

from collections.abc import Iterator, Mapping
from datetime import datetime

from controlplane.domain.errors import Conflict, Integrity, NotFound
from controlplane.vault import signed
from controlplane.vault.pack import Packs, pack_of
from controlplane.vault.ports import Keys, Signer, Upload

SIGNED = {"heads": "head", "homes": "home", "incarnations": "life"}


class Held:
    """An object store of one object in memory, for reading only."""

    def __init__(self, name: str, data: bytes) -> None:
        self._name = name
        self._data = data

    def upload(self, name: str) -> Upload:
        raise Conflict(f"{name}: nothing is stored here")

    def put(self, name: str, data: bytes) -> None:
        raise Conflict(f"{name}: nothing of {len(data)} bytes is stored here")

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        if name != self._name:
            raise NotFound(f"{name} is not here")
        return self._data[offset : len(self._data) if length is None else offset + length]

    def size(self, name: str) -> int:
        return len(self.get(name))

    def names(self, folder: str) -> Iterator[str]:
        return iter([self._name] if self._name.startswith(f"{folder}/") else [])

    def delete(self, name: str) -> None:
        raise Conflict(f"{name}: nothing is deleted here")

    def sweep(self, before: datetime) -> int:
        raise Conflict(f"nothing is swept here, however old: {before}")


def sound_pack(keys: Keys, domain: str, name: str, data: bytes) -> Packs:
    """The pack, opened; Integrity unless every blob of it decrypts and has its id."""
    pack = pack_of(name)
    packs = Packs(objects=Held(name, data), keys=keys)
    bad = packs.check(domain, pack, lambda: False)
    if bad:
        raise Integrity(f"{name}: blobs {bad} are damaged")
    return packs


def sound_document(signers: Mapping[str, Signer], name: str, data: bytes) -> None:
    """Integrity unless the document was signed by us; for what lies under `SIGNED`."""
    folder = name.partition("/")[0]
    signed.read(SIGNED[folder], data, signers[folder], what=name)
