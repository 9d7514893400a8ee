"""Instances at a fake site: making, powering, fencing and hearing them."""

from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from itertools import count
from uuid import uuid4

from controlplane.domain.answer import Absent, Answer, Seen
from controlplane.domain.disk import VolumeSpec
from controlplane.domain.errors import Conflict, Exhausted, Invalid, NotFound
from controlplane.domain.fence import FenceProof
from controlplane.domain.ids import ArtefactId
from controlplane.domain.instance import (
    DiskSeen,
    InstanceSeen,
    InstanceSpec,
    InstanceState,
    Manner,
    Power,
    Trait,
    Traits,
)
from controlplane.domain.network import NicSeen, NicSpec
from controlplane.domain.owner import OwnerTag
from controlplane.domain.site import CreateOrder
from drivers.contract import ConsoleLog, Fencing, GuestAgent, Instances, Pausing
from drivers.fake.base import FakeBase
from drivers.fake.images import filled
from drivers.fake.site import FakeInstance, FakeSite, FakeVolume


class FakeInstances(FakeBase, Instances, Fencing, ConsoleLog, GuestAgent, Pausing):
    def reserve(self, owner: OwnerTag, promised: Collection[str] = ()) -> str | None:
        with self._call("reserve", owner) as site:
            if self.limits.create_order is CreateOrder.DISKS_FIRST:
                return None
            taken = {*_anchors(site), *promised}
            return next(anchor for n in count(100) if (anchor := str(n)) not in taken)

    def find(self, owner: OwnerTag, anchor: str | None = None) -> Answer[InstanceSeen]:
        del anchor  # the tag alone finds it here
        with self._call("find", owner) as site:
            if stale := site.stale():
                return stale
            if it := site.instances.get(owner.artefact):
                _stop_in_time(it)
                return Seen(seen(it, settled=it.settled()))
            if ghost := site.lingering(owner, FakeInstance):
                return Seen(seen(ghost, settled=False))
            return Absent()

    def traits(self, owner: OwnerTag) -> Traits:
        with self._call("traits", owner) as site:
            return Traits(looked=frozenset(Trait), found=self._look(site, owner).traits)

    def create(self, owner: OwnerTag, spec: InstanceSpec) -> str:
        with self._call("create", owner) as site:
            if it := site.instances.get(owner.artefact):
                if replace(it.spec, anchor=None) != replace(spec, anchor=None):
                    raise self._other_wish(it.ref)
                it.stamp(owner)
                return it.ref
            self._refuse(site, spec)
            ref = f"vm-{spec.anchor or site.number()}"
            volumes = self._disks(site, owner, spec)
            it = FakeInstance(
                owner=owner,
                epoch=owner.epoch,
                ref=ref,
                settling=site.settle,
                spec=spec,
                volumes=volumes,
                nics=[_nic(site, nic) for nic in spec.nics],
                anchor=spec.anchor,
            )
            for volume in volumes:
                volume.attached_to = owner.artefact
            site.ghosts.pop(owner.artefact, None)
            site.instances[owner.artefact] = it
            return ref

    def set_power(self, owner: OwnerTag, power: Power, manner: Manner = Manner.GRACEFUL) -> None:
        with self._call("set_power", owner) as site:
            it = self._mine(site, owner)
            if it.power is power:
                if manner is Manner.HARD:
                    it.stopping = 0
                return
            if power is Power.OFF and manner is Manner.GRACEFUL and site.leisure:
                it.stopping = it.stopping or site.leisure
                return
            if power is Power.ON:
                self._startable(site, it)
                it.boots += 1
            it.power, it.paused, it.stopping = power, False, 0
            it.settling = site.settle
            site.record(it)

    def delete(self, owner: OwnerTag) -> None:
        with self._call("delete", owner) as site:
            if not (it := site.instances.get(owner.artefact)):
                return
            it.stamp(owner)
            if it.power is Power.ON:
                raise Conflict(f"{it.ref} at {site.name} is running: stop it first")
            del site.instances[owner.artefact]
            site.ghost(it)
            for volume in it.volumes:
                volume.attached_to = None
                if volume.made_by == owner.artefact:
                    del site.volumes[volume.owner.artefact]
            if self.limits.create_order is CreateOrder.INSTANCE_FIRST:
                for key in [k for k, s in site.snapshots.items() if s.instance == it.ref]:
                    del site.snapshots[key]

    def isolate_nics(self, owner: OwnerTag) -> None:
        with self._call("isolate_nics", owner) as site:
            if owner.artefact in site.instances:
                self._link(site, owner, isolated=True)

    def give_up_nics(self, owner: OwnerTag) -> bool:
        with self._call("give_up_nics", owner) as site:
            it = site.instances.get(owner.artefact)
            if it is None:
                return True
            if it.power is Power.ON:
                raise Conflict(f"{it.ref} at {site.name} runs: stop it first")
            done = all(nic.isolated for nic in it.nics)
            self._link(site, owner, isolated=True)
            return done

    def connect_nics(self, owner: OwnerTag) -> None:
        with self._call("connect_nics", owner) as site:
            self._link(site, owner, isolated=False)

    def probe_boot(self, owner: OwnerTag) -> str:
        with self._call("probe_boot", owner) as site:
            return _console(site, self._look(site, owner))

    def console_log(self, owner: OwnerTag) -> str:
        with self._call("console_log", owner) as site:
            return _console(site, self._look(site, owner))

    def agent_answers(self, owner: OwnerTag) -> bool:
        with self._call("agent_answers", owner) as site:
            return bool(_console(site, self._look(site, owner)))

    def pause(self, owner: OwnerTag, within: timedelta) -> bool:
        del within  # its sites die with us
        with self._call("pause", owner) as site:
            it = self._mine(site, owner)
            if it.power is Power.OFF:
                raise Conflict(f"{it.ref} at {site.name} is off: start it before pausing it")
            it.paused = True
            return bool(_console(site, it))

    def keep_paused(self, owner: OwnerTag) -> None:
        with self._call("keep_paused", owner) as site:
            it = self._mine(site, owner)
            if it.power is Power.OFF or not it.paused:
                raise Conflict(f"{it.ref} at {site.name} went on since it was paused")

    def resume(self, owner: OwnerTag) -> None:
        with self._call("resume", owner) as site:
            self._mine(site, owner).paused = False

    def fence(self, owner: OwnerTag) -> FenceProof:
        with self._call("fence", owner) as site:
            it = self._mine(site, owner)
            if it.power is Power.ON:
                raise Conflict(f"{it.ref} at {site.name} is running: stop it, then fence it")
            it.fenced = True
            return self._proof(site, it)

    def verify_fence(self, owner: OwnerTag) -> FenceProof:
        with self._call("verify_fence", owner) as site:
            it = self._look(site, owner)
            if not it.fenced or it.power is Power.ON:
                raise Conflict(
                    f"{it.ref} at {site.name} could run: fence it again", reason="not-fenced"
                )
            return self._proof(site, it)

    def unfence(self, owner: OwnerTag) -> None:
        with self._call("unfence", owner) as site:
            self._mine(site, owner).fenced = False

    def _look(self, site: FakeSite, owner: OwnerTag) -> FakeInstance:
        if it := site.instances.get(owner.artefact):
            return it
        raise NotFound(f"there is no instance {owner.artefact} at {site.name}: create it first")

    def _mine(self, site: FakeSite, owner: OwnerTag) -> FakeInstance:
        it = self._look(site, owner)
        it.stamp(owner)
        return it

    def _startable(self, site: FakeSite, it: FakeInstance) -> None:
        if it.fenced:
            raise Conflict(f"{it.ref} at {site.name} is fenced: unfence it first")
        for volume in it.volumes:
            if (grant := site.writers.get(volume.ref)) and not grant.revoked:
                raise Conflict(f"{volume.ref} at {site.name} is being written: close that first")

    def _link(self, site: FakeSite, owner: OwnerTag, *, isolated: bool) -> None:
        it = self._mine(site, owner)
        it.nics = [replace(nic, isolated=isolated) for nic in it.nics]
        if it.power is Power.ON:
            site.record(it)

    def _proof(self, site: FakeSite, it: FakeInstance) -> FenceProof:
        return FenceProof(
            level=self.limits.fence_level,
            observer=f"fake site {site.name}",
            epoch=it.epoch,
            at=datetime.now(UTC),
        )

    def _refuse(self, site: FakeSite, spec: InstanceSpec) -> None:
        """Raise what stands against making `spec`, before anything is made."""
        self._named(spec.name)
        limits, left = self.limits, self.quota()
        if not 0 < len(spec.disks) <= limits.disks_max or len(spec.nics) > limits.nics_max:
            raise Invalid(
                f"{spec.name} wants {len(spec.disks)} disks and {len(spec.nics)} nics; site"
                f" {site.name} gives 1 to {limits.disks_max} and at most {limits.nics_max}"
            )
        if site.catalogue.skus and spec.sku not in {sku.name for sku in site.catalogue.skus}:
            raise Invalid(f"site {site.name} has no sku {spec.sku!r}: choose one that it lists")
        if spec.anchor is not None and spec.anchor in _anchors(site):
            raise Conflict(
                f"anchor {spec.anchor} at {site.name} belongs to something else: reserve another",
                reason="anchor-taken",
            )
        for what, free, wanted in (
            ("instances", left.instances, 1),
            ("cpus", left.cpus, spec.size.cpus),
            ("memory", left.memory, spec.size.memory),
        ):
            if free is not None and wanted > free:
                raise Exhausted(f"site {site.name} has {free} {what} left; {wanted} are wanted")

    def _disks(self, site: FakeSite, owner: OwnerTag, spec: InstanceSpec) -> list[FakeVolume]:
        networks = {n.ref for n in site.catalogue.networks}
        networks |= {n.ref for n in site.networks.values()}
        if missing := [nic.network for nic in spec.nics if nic.network not in networks]:
            raise NotFound(f"site {site.name} has no network {missing[0]}: map it to another")
        if self.limits.create_order is CreateOrder.DISKS_FIRST:
            return [self._made_before(site, place.volume) for place in spec.disks]
        volumes = []
        for index, place in enumerate(spec.disks):
            if place.volume is not None:
                raise Invalid(f"site {site.name} makes volumes with the instance: name an image")
            size = self._rounded(place.size)
            disk = filled(site, place.image, size)
            ref = f"vol-{site.number()}"
            volumes.append(
                FakeVolume(
                    owner=replace(owner, artefact=ArtefactId(uuid4())),
                    epoch=owner.epoch,
                    ref=ref,
                    spec=VolumeSpec(
                        name=f"{spec.name}-{index}", size=size, image=place.image, bus=place.bus
                    ),
                    disk=disk,
                    made_by=owner.artefact,
                )
            )
        site.volumes.update({v.owner.artefact: v for v in volumes})
        return volumes

    def _made_before(self, site: FakeSite, ref: str | None) -> FakeVolume:
        if ref is None:
            raise Invalid(f"site {site.name} wants volumes made before: name one for each disk")
        volume = site.volume_of(ref)
        if volume.settling:
            raise Conflict(f"{ref} at {site.name} is not ready: wait for it")
        if volume.attached_to is not None:
            raise Conflict(f"{ref} at {site.name} is attached to another instance: detach it")
        return volume


def _nic(site: FakeSite, nic: NicSpec) -> NicSeen:
    number = site.number()
    cidr = next((n.cidr for n in site.catalogue.networks if n.ref == nic.network), "")
    address = nic.address
    if address is None and cidr:
        hosts = ip_network(cidr)
        address = str(hosts[1 + number % (hosts.num_addresses - 2)])
    mac = nic.mac or ":".join(f"{b:02x}" for b in (2, 0xFE, *number.to_bytes(4, "big")))
    return NicSeen(network=nic.network, mac=mac, address=address, isolated=nic.isolated)


def _stop_in_time(it: FakeInstance) -> None:
    """A guest that was asked to stop is shown running for a while, whatever is asked of it then."""
    if it.stopping:
        it.stopping -= 1
        if not it.stopping:
            it.power = Power.OFF


def seen(it: FakeInstance, *, settled: bool) -> InstanceSeen:
    state = InstanceState.READY if settled else InstanceState.WORKING
    return InstanceSeen(
        ref=it.ref,
        name=it.spec.name,
        state=InstanceState.FAILED if it.broken else state,
        power=it.power if settled else None,
        epoch=it.epoch,
        size=it.spec.size,
        disks=tuple(
            DiskSeen(volume=v.ref, size=v.disk.size, bus=place.bus)
            for v, place in zip(it.volumes, it.spec.disks, strict=True)
        ),
        nics=tuple(it.nics),
        fenced=it.fenced,
        why=it.broken,
    )


def _anchors(site: FakeSite) -> set[str | None]:
    return {i.anchor for i in site.instances.values()} | site.foreign_anchors


def _console(site: FakeSite, it: FakeInstance) -> str:
    if it.power is Power.OFF or it.settling or not site.guests_boot:
        return ""
    return f"{it.spec.name} login: (boot {it.boots} on {it.ref})\n"
