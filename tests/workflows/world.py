"""A small world for stories: two fake sites, one instance, a store, a vault, a worker."""

import random
import shutil
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast
from uuid import UUID, uuid4

from sqlalchemy import event

from controlplane.domain.artefact import Artefact, ArtefactKind, ArtefactState
from controlplane.domain.disk import (
    GIB,
    KIB,
    MIB,
    DiskFormat,
    Extent,
    ExtentKind,
    ImageSource,
    VolumeSpec,
)
from controlplane.domain.ids import (
    ArtefactId,
    InstanceId,
    OperationId,
    PointId,
    ResourceId,
    SiteName,
    TenantName,
    WorkspaceName,
    derived,
)
from controlplane.domain.instance import DiskPlace, InstanceSpec, Power, Size
from controlplane.domain.kinds import facts
from controlplane.domain.network import NicSpec
from controlplane.domain.operation import Operation, OperationKind, Step
from controlplane.domain.owner import OwnerTag
from controlplane.domain.placement import Placement
from controlplane.domain.resource import Kind, Resource, ResourceKey, State
from controlplane.domain.site import Capability, CreateOrder
from controlplane.keys.keyring import Keyring
from controlplane.keys.memory import MemoryKeys
from controlplane.keys.port import SigningPurpose
from controlplane.keys.root import LocalAgent, RootKey
from controlplane.services.bandwidth import Bandwidth
from controlplane.services.record import start_bare
from controlplane.services.vaulting import KeptKeys, StoreSigner, domain_keys
from controlplane.services.wish import Caller
from controlplane.store.engine import Store
from controlplane.store.ports import StoredVault
from controlplane.vault.homes import Homes
from controlplane.vault.local import LocalObjects
from controlplane.vault.memory import MemoryRecords
from controlplane.vault.ports import VaultRecords
from controlplane.vault.vault import Vault
from drivers.contract import Instances, Volumes, require
from drivers.disks.image import image_file
from drivers.fake.history import HISTORY
from drivers.fake.site import FakeSite, fake_site, forget_sites
from workflows.activities.adoption import AdoptionActivities
from workflows.activities.changes import ChangeActivities
from workflows.activities.checks import CheckActivities
from workflows.activities.control import ControlActivities
from workflows.activities.endings import EndingActivities
from workflows.activities.group_plans import GroupPlanActivities
from workflows.activities.groups import GroupActivities
from workflows.activities.lookups import LookupActivities
from workflows.activities.planning import PlanActivities
from workflows.activities.records import RecordActivities
from workflows.activities.sites import SiteActivities
from workflows.activities.snapshots import SnapshotActivities
from workflows.activities.steps import Steps
from workflows.activities.straight import StraightActivities
from workflows.activities.survey import SurveyActivities
from workflows.activities.sweep import SweepActivities, compare
from workflows.activities.transfer import TransferActivities
from workflows.connections import Connections
from workflows.worker import Hands

TENANT = TenantName("acme")
SHOP = WorkspaceName("shop")
HOME, AWAY = SiteName("north"), SiteName("south")
CALLER = Caller(subject="ada", tenant=TENANT, request="request-1")
DISK = 64 * MIB


def now() -> datetime:
    return datetime.now(UTC)


def content(seed: int) -> dict[int, bytes]:
    """Scattered bytes of a disk: at the start, across a chunk border, at the end."""
    chance = random.Random(seed)
    return {
        0: chance.randbytes(4 * KIB),
        1 * MIB - 700: chance.randbytes(90 * KIB),
        20 * MIB: chance.randbytes(1 * MIB),
        DISK - 512: chance.randbytes(512),
    }


_TEMPLATES: dict[str, Path] = {}
_FOLDER = TemporaryDirectory(prefix="fedctl-tests-")


def migrated(folder: Path) -> Store:
    """A store with every migration applied, by copying a file where that was done once.

    Nothing here outlives the machine, so commits need not wait for the disk: half the time of a
    short story goes into that.
    """
    file = folder / "state.db"
    template = _TEMPLATES.get("migrated")
    if template is not None:
        shutil.copyfile(template, file)
    store = Store(f"sqlite:///{file}")
    for engine in (store._writer, store._reader):
        event.listen(engine, "connect", _unhurried)
    if template is None:
        store.migrate()
        store.close()
        template = Path(_FOLDER.name) / "migrated.db"
        shutil.copyfile(file, template)
        _TEMPLATES["migrated"] = template
    return store


def _unhurried(connection: Any, _record: object) -> None:
    connection.cursor().execute("PRAGMA synchronous = OFF")


class BytesDisk:
    """A block reader over scattered bytes."""

    def __init__(self, parts: dict[int, bytes], size: int = DISK) -> None:
        self.data = bytearray(size)
        for offset, part in parts.items():
            self.data[offset : offset + len(part)] = part

    @property
    def size(self) -> int:
        return len(self.data)

    def extents(self) -> Iterator[Extent]:
        yield Extent(offset=0, length=self.size, kind=ExtentKind.DATA)

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.data[offset : offset + length])

    def close(self) -> None:
        """Nothing is held."""


@dataclass
class World:
    """What a test holds: store, vault, activities, and the two sites."""

    store: Store
    agent: LocalAgent
    keys: KeptKeys
    objects: LocalObjects
    vault: Vault
    hands: Hands
    homes: Homes
    uploads: Path
    home: FakeSite
    away: FakeSite
    connections: Connections
    orders: dict[SiteName, CreateOrder]
    instance: InstanceId = field(default_factory=lambda: InstanceId(uuid4()))

    @classmethod
    def build(
        cls,
        folder: Path,
        *,
        home: CreateOrder = CreateOrder.DISKS_FIRST,
        away: CreateOrder = CreateOrder.INSTANCE_FIRST,
        whole_images: bool = False,
    ) -> "World":
        """With `whole_images` nobody can write to a disk of the site that is moved to."""
        forget_sites()
        store = migrated(folder)
        agent = LocalAgent(RootKey(root=uuid4(), material=bytes(range(32))))
        objects = LocalObjects(folder / "vault")
        keys = KeptKeys(MemoryKeys(), objects)
        uploads = folder / "uploads"
        uploads.mkdir()
        world = cls._over(
            store,
            MemoryRecords(),
            agent=agent,
            keys=keys,
            objects=objects,
            uploads=uploads,
            orders={HOME: home, AWAY: away},
        )
        world.home.fetch = world.away.fetch = world.fetch
        world._register()
        if whole_images:
            world.away.lacking = {Capability.DISK_IMPORT: "not here"}
        return world

    @classmethod
    def _over(
        cls,
        store: Store,
        records: VaultRecords,
        *,
        agent: LocalAgent,
        keys: KeptKeys,
        objects: LocalObjects,
        uploads: Path,
        orders: dict[SiteName, CreateOrder],
    ) -> "World":
        keyring = Keyring(agent=agent, rows=keys)
        homes = Homes(objects, StoreSigner(agent, SigningPurpose.HOME))
        vault = Vault(
            records=records,
            objects=objects,
            keys=domain_keys(keyring, keys),
            signer=StoreSigner(agent, SigningPurpose.VAULT_HEAD),
            clock=now,
        )
        connections = Connections(store, lambda _site, _sealed: {}, now, timeout=5)
        connect, look = connections.connect, connections.look
        steps = Steps(store, now)
        hands = Hands(
            records=RecordActivities(store, steps, homes, now),
            lookups=LookupActivities(store),
            endings=EndingActivities(store, now),
            plans=PlanActivities(store, steps, connect, look, now, vault.stands),
            sites=SiteActivities(store, steps, connect, now),
            transfer=TransferActivities(
                store=store,
                steps=steps,
                connect=connect,
                clock=now,
                vault=vault,
                bandwidth=Bandwidth(store),
                uploads=uploads,
                gateway_url="http://gateway.test",
            ),
            survey=SurveyActivities(store, steps, look, now),
            sweep=SweepActivities(store, steps, connect, look, now),
            snapshots=SnapshotActivities(store, steps, connect, now),
            changes=ChangeActivities(
                store=store,
                steps=steps,
                connect=connect,
                clock=now,
                vault=vault,
                bandwidth=Bandwidth(store),
            ),
            control=ControlActivities(store, now, cutovers=4),
            adoption=AdoptionActivities(store, steps, connect, now),
            checks=CheckActivities(store, steps, vault, now),
            straight=StraightActivities(
                store=store,
                steps=steps,
                connect=connect,
                clock=now,
                vault=vault,
                bandwidth=Bandwidth(store),
            ),
            groups=GroupActivities(store, steps, connect, now),
            group_plans=GroupPlanActivities(store, steps, connect, now, vault.stands),
        )
        return cls(
            store=store,
            agent=agent,
            keys=keys,
            objects=objects,
            vault=vault,
            hands=hands,
            homes=homes,
            uploads=uploads,
            home=fake_site(f"fake://{HOME}"),
            away=fake_site(f"fake://{AWAY}"),
            connections=connections,
            orders=orders,
        )

    def restored(self, store: Store) -> "World":
        """The same sites and the same vault under another database."""
        world = World._over(
            store,
            StoredVault(store),
            agent=self.agent,
            keys=self.keys,
            objects=self.objects,
            uploads=self.uploads,
            orders=self.orders,
        )
        world.instance = self.instance
        world.home.fetch = world.away.fetch = world.fetch
        return world

    def close(self) -> None:
        self.connections.close()
        self.vault.close()
        self.store.close()
        forget_sites()

    def fetch(self, source: ImageSource) -> Iterable[bytes]:
        """What the image gateway answers to a site that fetches."""
        token = source.url.rsplit("/", 1)[1].rsplit(".", 1)[0]
        with self.store.read() as tx:
            served = tx.served.by_token(sha256(token.encode()).hexdigest())
        assert served is not None
        assert not served.revoked
        reader = self.vault.open(PointId(UUID(served.point)), served.disk)
        with closing(image_file(reader, DiskFormat(served.format))) as image:
            for offset in range(0, image.size, MIB):
                yield image.read(offset, min(MIB, image.size - offset))

    def _register(self) -> None:
        for name, order in self.orders.items():
            self.put(
                facts(Kind.SITE).key(name, None, None),
                {
                    "provider": "fake",
                    "endpoint": f"fake://{name}",
                    "region": "eu-fr",
                    "options": {"order": order.value},
                },
            )
        self.put(facts(Kind.WORKSPACE).key(SHOP, TENANT, None), {})

    def put(
        self,
        key: ResourceKey,
        spec: dict[str, object],
        *,
        id: UUID | None = None,
        status: dict[str, object] | None = None,
        active: bool = True,
    ) -> Resource:
        with self.store.begin() as tx:
            resource, _ = tx.resources.put(
                key,
                id=ResourceId(id or uuid4()),
                labels={},
                annotations={},
                extensions={},
                spec=spec,
                status=status or {},
                now=now(),
                expected_version=None,
            )
            if active:
                tx.resources.set_state(resource.id, State.CREATING, now=now())
                tx.resources.set_state(resource.id, State.ACTIVE, now=now())
            return resource

    def key(self, kind: Kind, name: str) -> ResourceKey:
        return facts(kind).key(name, TENANT, SHOP)

    def describe(self, site: SiteName, **options: str) -> None:
        """Further options of a site."""
        key = facts(Kind.SITE).key(site, None, None)
        with self.store.begin() as tx:
            found = tx.resources.get(key)
            known = cast("dict[str, str]", found.spec["options"])
            spec = {**found.spec, "options": {**known, **options}}
            tx.resources.set_spec(found.id, spec, now=now())

    def wished_instance(self, *, active: bool, image: bool = True) -> ResourceKey:
        boot: dict[str, object] = {"skuRef": {"resource": "skus/seca.rd500"}, "sizeGB": 1}
        if image:
            boot["sourceImageRef"] = {"resource": "images/debian"}
        self.put(self.key(Kind.BLOCK_STORAGE, "web-1-boot"), boot)
        key = self.key(Kind.INSTANCE, "web-1")
        self.put(
            key,
            {
                "skuRef": {"resource": "skus/seca.dxs"},
                "zone": HOME,
                "bootVolume": {"deviceRef": {"resource": "block-storages/web-1-boot"}},
            },
            id=self.instance,
            status={"powerState": "off"},
            active=active,
        )
        return key

    def image(self, parts: dict[int, bytes]) -> ResourceId:
        """An image of the tenant, in the vault."""
        point = uuid4()
        disk = BytesDisk(parts)
        self.vault.copy(
            disk, point=PointId(point), disk=0, domain=f"{TENANT}/@images", subject="image",
            attempt=1,
        )  # fmt: skip
        self.vault.commit(
            PointId(point), disks=(0,), domain=f"{TENANT}/@images", tenant=TENANT,
            instance=InstanceId(point), mark=None, attempt=1,
        )  # fmt: skip
        self.put(
            facts(Kind.IMAGE).key("debian", TENANT, None),
            {"cpuArchitecture": "amd64"},
            id=point,
            status={"sizeMB": DISK // MIB},
        )
        return ResourceId(point)

    def running_instance(
        self, parts: dict[int, bytes], *more: dict[int, bytes], on: bool = True
    ) -> None:
        """An instance at home, made past the stories, with `parts` on its disk; `more` have more."""
        self.wished_instance(active=True, image=False)
        made_by = OperationId(uuid4())
        copy = derived(made_by, "instance")
        tag = OwnerTag(artefact=copy, instance=self.instance, operation=made_by, epoch=1)
        with self.connections.connect(HOME) as driver:
            places = []
            for number in range(1 + len(more)):
                place = DiskPlace(size=DISK)
                if self.orders[HOME] is CreateOrder.DISKS_FIRST:
                    volume = derived(made_by, "volume", number)
                    disk_tag = OwnerTag(
                        artefact=volume, instance=self.instance, operation=made_by, epoch=1
                    )
                    ref = require(driver, Volumes).create_volume(
                        disk_tag, VolumeSpec(name=f"web-1-{number}", size=DISK)
                    )
                    while require(driver, Volumes).find_volume(disk_tag).it.state != "ready":  # type: ignore[union-attr]
                        continue
                    place = DiskPlace(size=DISK, volume=ref)
                    self._record(volume, ArtefactKind.VOLUME, made_by, ref)
                places.append(place)
            instances = require(driver, Instances)
            anchor = instances.reserve(tag)
            spec = InstanceSpec(
                name="web-1",
                size=Size(cpus=1, memory=2 * GIB),
                disks=tuple(places),
                nics=(NicSpec(network="net-1", address="10.0.4.12"),),
                anchor=anchor,
            )
            ref = instances.create(tag, spec)
            self._record(copy, ArtefactKind.INSTANCE, made_by, ref, anchor)
            seen = None
            while seen is None or seen.state != "ready":
                seen = instances.find(tag, anchor).it  # type: ignore[union-attr]
            for disk, content in zip(seen.disks, (parts, *more), strict=True):
                for offset, part in content.items():
                    self.home.write_disk(disk.volume, offset, part)
            if on:
                instances.set_power(tag, Power.ON)
                while instances.find(tag, anchor).it.state != "ready":  # type: ignore[union-attr]
                    continue
        with self.store.begin() as tx:
            tx.placements.create(Placement(instance=self.instance, site=HOME, copy=copy, epoch=1))
            tx.resources.patch_status(
                ResourceId(self.instance), {"powerState": "on" if on else "off"}, now=now()
            )

    def _record(
        self,
        id: ArtefactId,
        kind: ArtefactKind,
        operation: OperationId,
        ref: str,
        anchor: str | None = None,
    ) -> None:
        with self.store.begin() as tx:
            tx.artefacts.intend(
                Artefact(
                    id=id, kind=kind, site=HOME, instance=self.instance, operation=operation,
                    epoch=1, state=ArtefactState.INTENDED, anchor=anchor, created_at=now(),
                )
            )  # fmt: skip
            tx.artefacts.set_state(id, ArtefactState.ALLOCATED, ref=ref)
            tx.artefacts.set_state(id, ArtefactState.ATTACHED)

    def ask_provision(self, parts: dict[int, bytes]) -> Operation:
        """A wished instance with an image for its disk, and the operation that makes it."""
        self.image(parts)
        return self.ask(OperationKind.PROVISION, key=self.wished_instance(active=False))

    def ask_site(self, kind: OperationKind, site: SiteName = AWAY) -> Operation:
        return self.ask(kind, key=facts(Kind.SITE).key(site, None, None))

    def resource(self, key: ResourceKey) -> Resource | None:
        with self.store.read() as tx:
            return tx.resources.find(key)

    def ask(
        self,
        kind: OperationKind,
        order: dict[str, object] | None = None,
        *,
        key: ResourceKey | None = None,
    ) -> Operation:
        key = key or self.key(Kind.INSTANCE, "web-1")
        with self.store.begin() as tx:
            subject = tx.resources.get(key)
            return start_bare(tx, CALLER, kind, subject.id, key, now=now(), order=order or {})

    def ask_move(self, kind: OperationKind = OperationKind.MOVE, **order: object) -> Operation:
        name = f"web-1-{uuid4().hex[:6]}"
        move = self.put(
            self.key(Kind.MOVE, name), {"instanceRef": {"resource": "instances/web-1"}},
            active=False,
        )  # fmt: skip
        return self.ask(kind, {"move": str(move.id), "to": AWAY, **order})

    def operation(self, id: OperationId) -> Operation:
        with self.store.read() as tx:
            return tx.operations.get(id)

    def steps(self, id: OperationId) -> tuple[Step, ...]:
        with self.store.read() as tx:
            return tx.operations.steps(id)

    def placement(self) -> Placement:
        with self.store.read() as tx:
            return tx.placements.get(self.instance)

    def artefacts(self, **wanted: object) -> list[Artefact]:
        with self.store.read() as tx:
            return list(tx.artefacts.list(**wanted))  # type: ignore[arg-type]

    def disk_of(
        self, site: FakeSite, copy: ArtefactId, parts: dict[int, bytes], number: int = 0
    ) -> bool:
        """Whether the copy's disk holds these parts where they belong."""
        with site.lock:
            volume = site.instances[copy].volumes[number].ref
        return all(
            site.read_disk(volume, offset, len(part)) == part for offset, part in parts.items()
        )

    def power_at(self, site: FakeSite, copy: ArtefactId) -> Power:
        with site.lock:
            return site.instances[copy].power

    def assert_nothing_strange(self, *, going: bool = False) -> None:
        """Everything anywhere is accounted for, nothing ran twice, nobody holds the instance.

        `going`: what a site was told to delete may be gone before its record says so.
        """
        assert self.unaccounted(going=going) == []
        assert self.overlaps() == ()
        with self.store.read() as tx:
            assert tx.leases.find(self.instance) is None

    def standing(self) -> object:
        """All that stands at either site and in the records of the instance.

        Not what moves by itself (an object that settles), nor times and numbers of attempts.
        """
        with self.store.read() as tx:
            placement = tx.placements.find(self.instance)
            lease = tx.leases.find(self.instance)
            it = tx.resources.find(self.key(Kind.INSTANCE, "web-1"))
        return (
            [_standing_at(site) for site in (self.home, self.away)],
            sorted((str(a.id), a.state, a.ref, a.holds, a.epoch) for a in self.artefacts()),
            placement,
            lease and (lease.operation, lease.epoch),
            it and (it.state, it.spec, it.status),
        )

    def unaccounted(self, *, going: bool = False) -> list[str]:
        """What the sweep would report at either site."""
        strange: list[str] = []
        for name in self.orders:
            with self.connections.connect(name) as driver:
                found = tuple(driver.owned())
            _, extra, missing = compare(found, tuple(self.artefacts(site=name)), now(), _NO_TIME)
            strange += [f"{name}: {what}" for what in (*extra, *(() if going else missing))]
        return strange

    def overlaps(self) -> tuple[object, ...]:
        return HISTORY.overlaps()


_NO_TIME = timedelta(0)


def _standing_at(site: FakeSite) -> object:
    with site.lock:
        return (
            {
                key: (it.ref, it.power, it.fenced, it.paused, it.boots, it.epoch, tuple(it.nics))
                for key, it in site.instances.items()
            },
            {
                key: (it.ref, it.epoch, it.attached_to, dict(it.disk.pages))
                for key, it in site.volumes.items()
            },
            {key: (it.ref, it.name, it.why) for key, it in site.images.items()},
            {key: (it.ref, dict(it.disks)) for key, it in site.snapshots.items()},
            {key: (it.ref, it.source) for key, it in site.exports.items()},
            set(site.strangers),
            set(site.strange_volumes),
        )
