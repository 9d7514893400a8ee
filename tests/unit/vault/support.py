"""A small world for vault tests: readers over bytes, a key, a signer, a clock that is set by hand."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from controlplane.domain.disk import KIB, MIB, Extent, ExtentKind
from controlplane.domain.ids import InstanceId, PointId, TenantName
from controlplane.vault.local import LocalObjects
from controlplane.vault.memory import MemoryRecords
from controlplane.vault.ports import (
    DomainKeys,
    ObjectStore,
)
from controlplane.vault.vault import Vault

DOMAIN = "acme/shop"
TENANT = TenantName("acme")
INSTANCE = InstanceId(UUID(int=7))
CHUNK = 64 * KIB


def new_point() -> PointId:
    return PointId(uuid4())


class Bytes:
    """A block reader over bytes; every read is counted."""

    def __init__(self, data: bytes, extents: list[tuple[int, ExtentKind]] | None = None) -> None:
        self.data = data
        self.reads: list[tuple[int, int]] = []
        self._extents = extents

    @property
    def size(self) -> int:
        return len(self.data)

    def extents(self) -> Iterator[Extent]:
        at = 0
        for length, kind in self._extents or ([(self.size, ExtentKind.DATA)] if self.size else []):
            yield Extent(offset=at, length=length, kind=kind)
            at += length

    def read(self, offset: int, length: int) -> bytes:
        assert offset >= 0
        assert offset + length <= self.size
        self.reads.append((offset, length))
        return self.data[offset : offset + length]

    def close(self) -> None:
        self.data = b""


class Seal:
    """An Ed25519 signer."""

    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))

    key_id = "sig-1"

    def sign(self, data: bytes) -> bytes:
        return self._key.sign(data)

    def verify(self, data: bytes, signature: bytes, key_id: str) -> bool:
        try:
            self._key.public_key().verify(signature, data)
        except InvalidSignature:
            return False
        return key_id == self.key_id


def keys(domain: str) -> DomainKeys:
    seed = random.Random(domain)
    return DomainKeys(
        id_key=seed.randbytes(32), data_key=seed.randbytes(32), data_key_id=f"{domain}-1"
    )


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 11, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_by(self, by: timedelta) -> None:
        self.now += by


class World:
    """One store and its records; `vault()` is one more process that uses them."""

    def __init__(self, root: Path, objects: ObjectStore | None = None) -> None:
        self.root = root
        self.objects = objects or LocalObjects(root)
        self.records = MemoryRecords()
        self.clock = Clock()
        self.opened: list[Vault] = []
        self.keys = keys

    def vault(self, **other: object) -> Vault:
        given = {
            "records": self.records,
            "objects": self.objects,
            "keys": self.keys,
            "signer": Seal(),
            "clock": self.clock,
        }
        vault = Vault(**{**given, **other})  # type: ignore[arg-type]
        self.opened.append(vault)
        return vault

    def close(self) -> None:
        for vault in self.opened:
            vault.close()

    def take(self, vault: Vault, data: bytes | Bytes, *, point: PointId | None = None, **more):
        """Copy one disk and commit it; (point, what was copied)."""
        point = point or new_point()
        copied = copy(vault, data, point=point, **more)
        commit(vault, point)
        return point, copied

    def files(self, under: str = "") -> list[Path]:
        return sorted(p for p in (self.root / under).rglob("*") if p.is_file())


def copy(vault: Vault, data: bytes | Bytes, *, point: PointId, attempt: int = 1, **more):
    reader = Bytes(data) if isinstance(data, bytes) else data
    given = {"disk": 0, "domain": DOMAIN, "subject": "instance web-1, disk 0", **more}
    return vault.copy(reader, point=point, attempt=attempt, **given)


def commit(vault: Vault, point: PointId, *, disks: tuple[int, ...] = (0,), attempt: int = 1, **m):
    given = {"domain": DOMAIN, "tenant": TENANT, "instance": INSTANCE, "mark": None, **m}
    return vault.commit(point, disks=disks, attempt=attempt, **given)


def read_all(vault: Vault, point: PointId, disk: int = 0, step: int = MIB) -> bytes:
    reader = vault.open(point, disk)
    try:
        return b"".join(
            reader.read(at, min(step, reader.size - at)) for at in range(0, reader.size, step)
        )
    finally:
        reader.close()


def some_disk(seed: int, chunks: str) -> bytes:
    """A disk by a word: R random, T text that compresses, Z zeros, one letter a chunk."""
    rng = random.Random(seed)
    parts = {
        "R": lambda: rng.randbytes(CHUNK),
        "T": lambda: (b"%08d line of text\n" % rng.randrange(10**8) * 4096)[:CHUNK],
        "Z": lambda: bytes(CHUNK),
    }
    return b"".join(parts[letter]() for letter in chunks)
