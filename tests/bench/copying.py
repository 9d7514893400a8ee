"""Copies of a disk of 4 GiB into the vault beside qemu-img, borg and restic; medians of rounds.

All stores lie in memory. The floor is what the same libraries reach in a loop without a vault: read,
digest, compress, seal, write, on two threads. Ours ends when the disk is wholly in sealed packs; the
read-back that makes a recovery point of it, which the others have not, is told beside it.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import monotonic
from uuid import uuid4

import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from controlplane.domain.disk import MIB, BlockReader, Extent, ExtentKind
from controlplane.domain.ids import InstanceId, PointId, TenantName
from controlplane.domain.vault import DiskCopied
from controlplane.store.engine import Store
from controlplane.store.ports import StoredVault
from controlplane.vault.local import LocalObjects
from controlplane.vault.nouns import Into
from controlplane.vault.vault import Vault
from drivers.disks.raw import RawFile
from tests.bench import disk as bench_disk
from tests.bench.disk import BLOCK, SIZE, change
from tests.bench.result import Result
from tests.unit.vault.support import Seal, keys

ROUNDS = int(os.environ.get("ROUNDS", "5"))
_PASS = {"BORG_PASSPHRASE": "bench", "RESTIC_PASSWORD": "bench"}
_DOMAIN = "acme/shop"
_FASTER = {"qemu-img": 1.8, "borg": 3.0, "borg told to cut at 4 MiB": 3.0, "restic": 4.5}
_COARSE = ("--sparse", "--chunker-params", "fixed,4194304")
_SHARE = 0.02

Took = dict[str, list[float]]


def measure() -> Iterator[Result]:
    with bench_disk.folder() as root:
        disk = root / "disk.raw"
        bench_disk.make(disk)
        yield from _full(disk, root)
        yield from _incremental(disk, root)


def _full(disk: Path, root: Path) -> Iterator[Result]:
    took: Took = {}
    stored: dict[str, int] = {}
    contenders: dict[str, Callable[[Path], None]] = {
        "floor": lambda to: _floor(disk, to),
        "qemu-img": lambda to: _qemu_img(disk, to),
        "borg": lambda to: _borg(disk, to),
        "borg told to cut at 4 MiB": lambda to: _borg(disk, to, *_COARSE),
        "restic": lambda to: _restic(disk, to),
    }
    contenders = {
        n: run for n, run in contenders.items() if n == "floor" or shutil.which(n.split()[0])
    }
    commits: list[float] = []

    def ours_once() -> None:
        with own(root) as vault:
            began = monotonic()
            copied = vault.copy(disk)
            took.setdefault("ours", []).append(monotonic() - began)
            began = monotonic()
            vault.commit(copied)
            commits.append(monotonic() - began)
            stored["ours"] = _size(vault.folder)

    def once(name: str) -> None:
        with _folder(root) as to:
            began = monotonic()
            contenders[name](to)
            took.setdefault(name, []).append(monotonic() - began)
            stored[name] = _size(to)

    names = ["ours", *contenders]
    for number in range(ROUNDS):
        # Each follows each other one: what ran before has the memory in another state.
        turn = number % len(names)
        for name in (*names[turn:], *names[:turn]):
            ours_once() if name == "ours" else once(name)
    ours = median(took["ours"])
    floor = median(took["floor"])
    yield Result(
        name="full copy into the vault, beside a bare loop of the same libraries",
        ours=round(ours, 2),
        peer=round(floor, 2),
        unit="s",
        goal=round(floor / 0.85, 2),
        breakdown={"read back and made a recovery point": round(median(commits), 2)},
    )
    for name, times in _FASTER.items():
        if name in took:
            peer = median(took[name])
            yield Result(
                name=f"full copy into the vault, beside {name}",
                ours=round(ours, 2),
                peer=round(peer, 2),
                unit="s",
                goal=round(peer / times, 2),
            )
    if "qemu-img" in stored:
        yield Result(
            name="bytes stored by a full copy, beside qemu-img's zstd",
            ours=round(stored["ours"] / MIB, 1),
            peer=round(stored["qemu-img"] / MIB, 1),
            unit="MiB",
            goal=round(stored["qemu-img"] / MIB * 1.05, 1),
        )


def _incremental(disk: Path, root: Path) -> Iterator[Result]:
    """Each round changes the disk; then it is copied with the changes known, and by comparing."""
    took: Took = {}
    grown: dict[str, list[float]] = {}
    restic = shutil.which("restic") is not None
    with own(root) as told, own(root) as compared, _folder(root) as repo:
        for each in (told, compared):
            each.commit(each.copy(disk))
        if restic:
            _restic(disk, repo)
        for number in range(ROUNDS):
            places = change(disk, share=_SHARE, seed=number)
            reader = _Changed(disk, places)
            _timed(took, grown, "told", told.folder, lambda r=reader: told.again(r))
            _timed(took, grown, "compared", compared.folder, lambda: compared.again(RawFile(disk)))
            if restic:
                _timed(took, grown, "restic", repo, lambda: _restic_again(disk, repo))
    if not restic:
        return
    peer, more = median(took["restic"]), median(grown["restic"])
    yield Result(
        name="2 % changed and known: copied and made a recovery point, beside restic",
        ours=round(median(took["told"]), 3),
        peer=round(peer, 2),
        unit="s",
        goal=round(peer / 20, 3),
    )
    yield Result(
        name="2 % changed: bytes stored, beside restic",
        ours=round(median(grown["told"]) / MIB, 1),
        peer=round(more / MIB, 1),
        unit="MiB",
        goal=round(more / MIB / 10, 1),
    )
    yield Result(
        name="2 % changed, found by comparing: copied and made a recovery point, beside restic",
        ours=round(median(took["compared"]), 2),
        peer=round(peer, 2),
        unit="s",
        goal=round(peer / 5, 2),
    )


def _timed(
    took: Took, grown: dict[str, list[float]], name: str, folder: Path, run: Callable[[], object]
) -> None:
    before, began = _size(folder), monotonic()
    run()
    took.setdefault(name, []).append(monotonic() - began)
    grown.setdefault(name, []).append(_size(folder) - before)


@dataclass
class Own:
    """A vault over a database and a folder of its own."""

    vault: Vault
    folder: Path
    last: PointId | None = None
    instance: InstanceId = field(default_factory=lambda: InstanceId(uuid4()))

    def copy(self, disk: Path) -> PointId:
        point = PointId(uuid4())
        self.copied(point, RawFile(disk), None)
        return point

    def again(self, reader: BlockReader) -> None:
        point = PointId(uuid4())
        self.copied(point, reader, self.last)
        self.commit(point)

    def commit(self, point: PointId) -> None:
        self.vault.commit(
            point, disks=(0,), domain=_DOMAIN, tenant=TenantName("acme"), instance=self.instance,
            mark=None, attempt=1,
        )  # fmt: skip
        self.last = point

    def copied(
        self, point: PointId, reader: BlockReader, base: PointId | None, into: Into | None = None
    ) -> DiskCopied:
        try:
            return self.vault.copy(
                reader, point=point, disk=0, domain=_DOMAIN, subject="disk 0", attempt=1, base=base,
                into=into,
            )  # fmt: skip
        finally:
            reader.close()


class _Changed(RawFile):
    """The disk with what its source tells of changes since the last copy."""

    def __init__(self, path: Path, places: list[int]) -> None:
        super().__init__(path)
        self._places = places

    def extents(self) -> Iterator[Extent]:
        at = 0
        for place in self._places:
            if place > at:
                yield Extent(offset=at, length=place - at, kind=ExtentKind.UNCHANGED)
            yield Extent(offset=place, length=BLOCK, kind=ExtentKind.DATA)
            at = place + BLOCK
        if at < SIZE:
            yield Extent(offset=at, length=SIZE - at, kind=ExtentKind.UNCHANGED)


@contextmanager
def own(root: Path) -> Iterator[Own]:
    with _folder(root) as folder:
        store = Store(f"sqlite:///{folder}/fedctl.db")
        store.migrate()
        objects = folder / "vault"
        vault = Vault(
            records=StoredVault(store), objects=LocalObjects(objects), keys=keys, signer=Seal(),
            clock=lambda: datetime.now(UTC), index=folder / "index.db",
        )  # fmt: skip
        with vault:
            yield Own(vault, objects)
        store.close()


@contextmanager
def _folder(root: Path) -> Iterator[Path]:
    with TemporaryDirectory(dir=root) as made:
        yield Path(made)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _qemu_img(disk: Path, to: Path) -> None:
    _ran(["qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "compression_type=zstd",
          str(disk), str(to / "disk.qcow2")], to)  # fmt: skip


def _borg(disk: Path, to: Path, *how: str) -> None:
    repo = to / "repo"
    _ran(["borg", "init", "-e", "repokey", str(repo)], to)
    _ran(["borg", "create", *how, "-C", "zstd,1", f"{repo}::one", str(disk)], to)


def _restic(disk: Path, to: Path) -> None:
    _ran(["restic", "-q", "-r", str(to / "repo"), "init"], to)
    _restic_again(disk, to)


def _restic_again(disk: Path, to: Path) -> None:
    _ran(["restic", "-q", "-r", str(to / "repo"), "backup", str(disk)], to)


def _ran(words: list[str], to: Path) -> None:
    at_home = {"HOME": str(to / "home"), "BORG_BASE_DIR": str(to / "home"), **_PASS}
    (to / "home").mkdir(exist_ok=True)
    subprocess.run(words, check=True, capture_output=True, env={**os.environ, **at_home})


def _floor(disk: Path, to: Path) -> None:
    """What a full copy costs at the least: each thread takes every other stretch of 4 MiB."""

    def half(number: int) -> None:
        key = AESGCM(os.urandom(32))
        pack = zstandard.ZstdCompressor(level=1, write_content_size=True)
        zeros = bytes(BLOCK)
        with disk.open("rb", buffering=0) as source, (to / f"{number}").open("wb") as out:
            for count, stretch in enumerate(stretches[number::2]):
                data = os.pread(source.fileno(), 4 * MIB, stretch)
                view = memoryview(data)
                for at in range(0, len(data), BLOCK):
                    block = view[at : at + BLOCK]
                    if data.startswith(zeros, at):
                        continue
                    digest = blake3(block, derive_key_context="bench").digest()
                    frame = pack.compress(block)
                    body = frame if len(frame) < BLOCK else bytes(block)
                    nonce = (count * 64 + at // BLOCK).to_bytes(12, "big")
                    out.write(key.encrypt(nonce, body, digest))

    stretches = [
        at
        for extent in _extents(disk)
        if extent.kind is ExtentKind.DATA
        for at in range(extent.offset, extent.offset + extent.length, 4 * MIB)
    ]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(half, range(2)))


def _extents(disk: Path) -> list[Extent]:
    reader = RawFile(disk)
    try:
        return list(reader.extents())
    finally:
        reader.close()
