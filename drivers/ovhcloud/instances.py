"""Instances at an OVHcloud site: servers that are claimed, booted, fenced, wiped and given back.

A server has no power button: it is always cut and started again, and boots what it is told to. On
means that it boots its disk; off means that it is in rescue, where its system does not run and its
disk can be reached, and an instance is off only when its rescue system says so over ssh.
"""

from collections.abc import Collection
from datetime import UTC, datetime
from hashlib import sha256
from typing import NoReturn

from controlplane.domain.answer import Absent, Answer, Seen, Unknown
from controlplane.domain.errors import (
    Busy,
    Conflict,
    Exhausted,
    Integrity,
    Invalid,
    NotFound,
    Unavailable,
    Unsupported,
)
from controlplane.domain.fence import FenceProof
from controlplane.domain.instance import (
    DiskSeen,
    InstanceSeen,
    InstanceSpec,
    InstanceState,
    Manner,
    Power,
    Traits,
)
from controlplane.domain.owner import OwnerTag
from drivers.contract import Fencing
from drivers.ovhcloud import mapping
from drivers.ovhcloud.base import Rented, is_of
from drivers.ovhcloud.client import translated
from drivers.ovhcloud.images import OvhImages
from drivers.ovhcloud.mapping import Boot


class OvhInstances(OvhImages, Fencing):
    def reserve(self, owner: OwnerTag, promised: Collection[str] = ()) -> str | None:
        """A free server of the pool, else the one where this instance's image lies already."""
        pool = self._pool()
        free = [each for each in pool if each.notes.free and each.name not in promised]
        if free:
            return _preferred(free, owner).name
        for each in pool:
            image = each.notes.image
            if (
                image is not None
                and not each.notes.get(mapping.OWNER)
                and (image.instance, image.operation) == (owner.instance, owner.operation)
            ):
                return each.name
        raise Exhausted(
            f"site {self.site}: no server of the pool is free: release one, or rent another"
        )

    def find(self, owner: OwnerTag, anchor: str | None = None) -> Answer[InstanceSeen]:
        """Besides, a server that is on its way out takes its next step."""
        try:
            rented = self._lookup(owner, anchor)
            if rented is None:
                return Absent()
            if rented.notes.get(mapping.LEAVING):
                rented = self._leave(rented)
                if rented.notes.nobodys:
                    return Absent()
            return Seen(self._seen(rented))
        except (Busy, Unavailable) as e:
            return Unknown(why=str(e))

    def _seen(self, rented: Rented) -> InstanceSeen:
        state, power, why = InstanceState.WORKING, None, ""
        boot, leaving = rented.notes.boot, rented.notes.get(mapping.LEAVING)
        task = self._task(rented)
        if boot is not None and task is not None and mapping.failed(task, since=boot):
            state, why = InstanceState.FAILED, mapping.said(str(task.get("comment") or ""))
        elif boot is None or (task is not None and task.get("status") in mapping.OPEN):
            pass
        elif boot.mode == mapping.HARDDISK:
            state, power = InstanceState.READY, Power.ON
        else:
            try:
                found = self._in_rescue(rented)
            except (Conflict, Integrity) as e:
                found, why = None, str(e)
            if found is not None:
                rented, power, state = found[0], Power.OFF, InstanceState.READY
        now = self._now(rented)
        if self._unsettled(rented, now) or not rented.notes.get(mapping.SPEC) or leaving:
            state = InstanceState.FAILED if state is InstanceState.FAILED else InstanceState.WORKING
        return InstanceSeen(
            ref=rented.name,
            name=rented.notes.get(mapping.NAME),
            state=state,
            power=power,
            epoch=rented.owner.epoch,
            size=rented.notes.size,
            disks=(DiskSeen(volume=volume_of(rented), size=rented.notes.disk, bus=mapping.BUS),),
            nics=tuple(seen for _, seen, _ in now),
            fenced=rented.notes.fenced,
            why=why,
        )

    def traits(self, owner: OwnerTag) -> Traits:
        """Of hardware little is told; what only virtual machines have is not there."""
        rented = self._lookup(owner)
        if rented is None:
            raise NotFound(
                f"site {self.site}: no server carries the tag {owner.artefact}: look there"
            )
        return mapping.traits(self._server(rented))

    # -- making --------------------------------------------------------------------------------

    def create(self, owner: OwnerTag, spec: InstanceSpec) -> str:
        """Claim the image's server, else the anchor's; it ends up in rescue, which is off."""
        mapping.checked(spec)
        rented = self._lookup(owner, spec.anchor)
        if rented is None:
            rented = self._found_place(owner, spec)
        else:
            self._not_late(f"server {rented.name}", owner, rented.owner)
        if rented.notes.get(mapping.LEAVING):
            raise Busy(f"server {rented.name} at {self.site} is being wiped: wait until it is free")
        if rented.notes.get(mapping.SPEC):
            return self._same(rented, owner, spec)
        rented = self._tag(
            rented,
            {
                mapping.NAME: spec.name,
                mapping.SIZE: f"{spec.size.cpus}.{spec.size.memory}",
                **{
                    f"{mapping.NIC}-{n}": mapping.nic_note(nic).text()
                    for n, nic in enumerate(spec.nics)
                },
            },
        )
        self._settle(rented, self._now(rented))
        if rented.notes.boot is None:
            rented = self._booted(rented, mapping.RESCUE)
        self._tag(rented, {mapping.SPEC: mapping.spec_digest(spec)})
        return rented.name

    def _found_place(self, owner: OwnerTag, spec: InstanceSpec) -> Rented:
        """A server of ours for the wish, checked before anything is claimed."""
        if spec.disks[0].image is not None:
            rented = self._image_place(spec.disks[0].image)
            if rented.notes.get(mapping.OWNER):
                raise Conflict(
                    f"server {rented.name} at {self.site} with that image is an instance already:"
                    " stage the image again"
                )
            self._fitting(rented, spec)
            rented = self._tag(rented, {mapping.OWNER: owner.text()})
            found = self._again(rented)
            if not is_of(found.notes.owner, owner):
                raise self._taken(rented)
            return found
        anchor = spec.anchor or self.reserve(owner) or ""
        place = self._rented(anchor)
        if place is None:
            raise NotFound(f"site {self.site}: there is no server {anchor!r}: reserve another")
        if not place.notes.free:
            raise self._taken(place)
        self._fitting(place, spec)
        return self._claimed(place, mapping.OWNER, owner)

    def _fitting(self, rented: Rented, spec: InstanceSpec) -> None:
        """Refused unless the server is what is wished: kind, firmware, interfaces, disk."""
        hardware, server = self._hardware(rented), self._server(rented)
        with translated(f"site {self.site}: hardware of {rented.name}"):
            kind = mapping.sku(server, hardware)
            mode = str(hardware["bootMode"])
            room = mapping.room(hardware)
        if spec.sku not in {None, kind.name} or spec.size != kind.size:
            raise Invalid(
                f"site {self.site} has servers of the kind {kind.name} alone: ask for that"
            )
        mapping.boots(mode, spec.firmware)
        if room < spec.disks[0].size:
            raise Invalid(
                f"the disk of server {rented.name} at {self.site} has {room} bytes and"
                f" {spec.disks[0].size} are wished: ask for less"
            )
        self._enough(rented, tuple(mapping.nic_note(nic) for nic in spec.nics))

    def _same(self, rented: Rented, owner: OwnerTag, spec: InstanceSpec) -> str:
        """The same wish again changes nothing but the epoch."""
        if rented.notes.get(mapping.SPEC) != mapping.spec_digest(spec):
            raise Conflict(
                f"server {rented.name} at {self.site} was claimed under this tag for another wish:"
                " use a tag of its own"
            )
        self._stamped(rented, owner)
        return rented.name

    # -- power ---------------------------------------------------------------------------------

    def set_power(self, owner: OwnerTag, power: Power, manner: Manner = Manner.GRACEFUL) -> None:
        """On boots the disk, off boots rescue; both cut what ran, whatever the manner."""
        del manner
        rented = self._mine(owner)
        if power is Power.ON and rented.notes.fenced:
            raise Conflict(f"server {rented.name} at {self.site} is fenced: unfence it first")
        rented = self._stamped(rented, owner)
        boot = rented.notes.boot
        runs = boot is not None and boot.mode == mapping.HARDDISK
        if boot is not None and runs is (power is Power.ON) and self._stands(rented, boot):
            return
        self._booted(rented, mapping.HARDDISK if power is Power.ON else mapping.RESCUE)

    def _stands(self, rented: Rented, boot: Boot) -> bool:
        """Whether what was booted last is still what there is, or on its way.

        Not when it failed, when the power is gone, or when somebody else booted rescue since: that
        has a strange host key.
        """
        task = self._task(rented)
        if task is not None and task.get("status") in mapping.OPEN:
            return True
        if task is not None and mapping.failed(task, since=boot):
            return False
        off = self._server(rented).get("powerState") == "poweroff"
        if off and not mapping.ended_lately(task, datetime.now(UTC)):
            return False
        try:
            self._in_rescue(rented)
        except Integrity:
            return False
        return True

    def probe_boot(self, owner: OwnerTag) -> NoReturn:
        del owner
        raise Unsupported(
            f"site {self.site}: OVHcloud tells nothing of what a server prints: probe its address"
        )

    # -- the end -------------------------------------------------------------------------------

    def delete(self, owner: OwnerTag) -> None:
        """Have it wiped and given back; `find` does one step after the other until it is free."""
        rented = self._lookup(owner)
        if rented is None:
            return
        self._not_late(f"server {rented.name}", owner, rented.owner)
        if rented.notes.get(mapping.LEAVING):
            return
        boot = rented.notes.boot
        if boot is not None and boot.mode == mapping.HARDDISK:
            raise Conflict(
                f"server {rented.name} at {self.site} is running: stop it before releasing it"
            )
        rented = self._stamped(rented, owner)
        self._leave(self._tag(rented, {mapping.LEAVING: "yes"}))

    # -- fences --------------------------------------------------------------------------------

    def fence(self, owner: OwnerTag) -> FenceProof:
        """In rescue, to which each boot leads again, in no vRack, and with no address of ours."""
        rented, _, _ = self._needs_rescue(self._mine(owner), "before fencing it")
        rented = self._stamped(rented, owner)
        self._set_boot(rented, mapping.RESCUE)
        rented = self._tag(rented, {mapping.FENCE: "yes"})
        now = self._now(rented)
        if self._unsettled(rented, now):
            self._settle(rented, now)
            raise Busy(f"server {rented.name} at {self.site} is leaving its networks: ask again")
        return self._verified(rented)

    def verify_fence(self, owner: OwnerTag) -> FenceProof:
        rented = self._lookup(owner)
        if rented is None:
            raise NotFound(
                f"site {self.site}: no server carries the tag {owner.artefact}: look there"
            )
        if not rented.notes.fenced:
            raise self._not_fenced(rented)
        return self._verified(rented)

    def _verified(self, rented: Rented) -> FenceProof:
        boot = self._server(rented).get("bootId")
        found = self._in_rescue(rented)
        connected = [seen for _, seen, _ in self._now(rented) if not seen.isolated]
        if found is None or connected or boot != self._netboot(rented, mapping.RESCUE):
            raise self._not_fenced(rented)
        return FenceProof(
            level=self.limits.fence_level,
            observer=f"rescue of {rented.name} at {self.site} over ssh, key {found[1].fingerprint}:"
            " its system does not run, every boot leads to rescue, and its nics are in no network",
            epoch=rented.owner.epoch,
            at=datetime.now(UTC),
        )

    def _not_fenced(self, rented: Rented) -> Conflict:
        return Conflict(
            f"server {rented.name} at {self.site} could run: stop it and fence it again",
            reason="not-fenced",
        )

    def unfence(self, owner: OwnerTag) -> None:
        """Nics are connected again as they were wished before."""
        rented = self._stamped(self._mine(owner), owner)
        rented = self._untag(rented, [mapping.FENCE])
        self._settle(rented, self._now(rented))


def volume_of(rented: Rented) -> str:
    """The ref of a server's only disk."""
    return f"{rented.name}/0"


def _preferred(free: list[Rented], owner: OwnerTag) -> Rented:
    """The same for the same instance, and spread over the pool for several."""
    return min(
        free, key=lambda each: sha256(f"{owner.instance.hex}{each.name}".encode()).hexdigest()
    )
