"""Instances at a Proxmox VE site: making, powering, isolating and fencing VMs."""

from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

from controlplane.domain.answer import Absent, Answer, Seen, Unknown
from controlplane.domain.disk import MIB
from controlplane.domain.errors import Busy, Conflict, Invalid, NotFound, Unavailable, Unsupported
from controlplane.domain.fence import FenceLevel, FenceProof
from controlplane.domain.instance import InstanceSeen, InstanceSpec, Manner, Power, Traits
from controlplane.domain.owner import OwnerTag
from drivers.contract import Fencing, GuestAgent, Instances
from drivers.proxmox import mapping
from drivers.proxmox import traits as found
from drivers.proxmox.base import ProxmoxBase, Vm
from drivers.proxmox.client import words
from drivers.proxmox.mapping import LOCK
from drivers.proxmox.marks import FenceNote, ImageName

_SHUTDOWN_SECONDS = 3600  # the task waits; who asked decides when to cut


class ProxmoxInstances(ProxmoxBase, Instances, Fencing, GuestAgent):
    def reserve(self, owner: OwnerTag, promised: Collection[str] = ()) -> str | None:
        """The lowest free vmid that is not promised; asking reserves nothing at the site."""
        del owner
        vmid = str(self._api.get("cluster/nextid"))
        while vmid in promised or not self._free(vmid):
            vmid = str(int(vmid) + 1)
        return vmid

    def _free(self, vmid: str) -> bool:
        try:
            self._api.get("cluster/nextid", vmid=vmid)
        except Invalid as e:
            if "already exists" not in words(e):
                raise
            return False
        return True

    def find(self, owner: OwnerTag, anchor: str | None = None) -> Answer[InstanceSeen]:
        try:
            vm = self._anchored(owner, anchor) or self._lookup(owner)
            if vm is None:
                return Absent()
            return Seen(mapping.instance_seen(vm.vmid, vm.config, self._status(vm)))
        except (Busy, Unavailable) as e:
            return Unknown(why=str(e))
        except NotFound as e:
            return Unknown(why=f"it went while being looked at: {e}")

    def _anchored(self, owner: OwnerTag, anchor: str | None) -> Vm | None:
        """The VM with the reserved id on the usual node, if it is ours. Busy while it is made."""
        vm = self._read(self._node(), int(anchor), reserved=True) if anchor else None
        return vm if vm is not None and vm.owner.artefact == owner.artefact else None

    def traits(self, owner: OwnerTag) -> Traits:
        vm = self._lookup(owner)
        if vm is None:
            raise NotFound(f"site {self.site}: no VM carries the tag {owner.artefact}: look there")
        return found.traits(vm.config, self._api.get(f"{vm.path}/snapshot"))

    def create(self, owner: OwnerTag, spec: InstanceSpec) -> str:
        """Ask for a VM under the vmid in `spec.anchor`."""
        mapping.checked(spec)
        if spec.user_data and not self._shell.known:
            raise Unsupported(
                f"site {self.site}: user data needs a snippet file, which only root's ssh can put"
                " on the node: register the site with ssh_key, or leave the user data out"
            )
        if vm := self._anchored(owner, spec.anchor) or self._lookup(owner):
            return self._same(vm, owner, spec)
        node, vmid = self._node(), int(spec.anchor or self._api.get("cluster/nextid"))
        sizes = {p.image: self._length(node, p.image) for p in spec.disks if p.image is not None}
        for place in spec.disks:
            if place.image is not None and sizes[place.image] > mapping.rounded(place.size):
                raise Invalid(
                    f"the image holds {sizes[place.image]} bytes and the disk is to have"
                    f" {place.size}: ask for a larger disk"
                )
        networks = mapping.networks(self._api.get(f"nodes/{node}/network", type="any_bridge"))
        wish = mapping.creation(
            owner, spec, storage=self._disks(), image_sizes=sizes, networks=networks
        )
        snippets = self._snippets(owner, spec)
        if snippets:
            wish["cicustom"] = ",".join(f"{kind}={volid}" for kind, volid, _ in snippets)
        try:
            self._api.post(f"nodes/{node}/qemu", vmid=vmid, **wish)
        except Conflict as e:
            if "already exists" not in words(e):
                raise
            return self._taken(owner, spec, vmid, e)
        self._write(snippets)
        return str(vmid)

    def _snippets(self, owner: OwnerTag, spec: InstanceSpec) -> list[tuple[str, str, str]]:
        """(kind, volume, text) of the cloud-init files; they are read when the VM starts."""
        if not spec.user_data:
            return []
        place = self._options.get("snippets") or self._storages("snippets")[0]["storage"]
        name = f"{place}:snippets/fedctl-{owner.artefact.hex}"
        out = [("user", f"{name}-user.yaml", spec.user_data)]
        if spec.ssh_keys:  # user data of one's own replaces what `sshkeys` would make
            out.append(("vendor", f"{name}-vendor.yaml", mapping.vendor_data(spec.ssh_keys)))
        return out

    def _write(self, snippets: list[tuple[str, str, str]]) -> None:
        for _, volid, text in snippets:
            self._shell.write(self._shell.path(volid), text)

    def _unwrite(self, vm: Vm) -> None:
        """Remove the cloud-init files that were written for this VM."""
        ours = f":snippets/fedctl-{vm.owner.artefact.hex}-"
        for volid in mapping.properties(vm.config.get("cicustom", "")).values():
            if ours in volid:
                self._shell.run("rm", "-f", self._shell.path(volid))

    def _same(self, vm: Vm, owner: OwnerTag, spec: InstanceSpec) -> str:
        self._current(vm, owner)
        if vm.notes.spec != mapping.spec_digest(spec):
            raise Conflict(
                f"VM {vm.vmid} at {self.site} was made under this tag for another wish: look at"
                " it, then delete it or use a tag of its own"
            )
        self._stamped(vm, owner)
        self._write(self._snippets(vm.owner, spec))
        return str(vm.vmid)

    def _taken(self, owner: OwnerTag, spec: InstanceSpec, vmid: int, refusal: Conflict) -> str:
        """The id belongs to a VM already: to ours, to one in the making, or to a stranger."""
        for node, listed in self._listed():
            if int(listed["vmid"]) != vmid:
                continue
            vm = self._read(node, vmid)
            if vm is not None and vm.owner.artefact == owner.artefact:
                return self._same(vm, owner, spec)
            if vm is None and listed.get("lock") == "create" and self._creating():
                raise Busy(
                    f"VM {vmid} at {self.site} is being made and does not show its tag yet: ask"
                    " again"
                ) from refusal
        raise Conflict(
            f"VM id {vmid} at {self.site} was given away: reserve another and ask again",
            reason="anchor-taken",
        ) from refusal

    def _length(self, node: str, image: str) -> int:
        """The disk's length inside a staged image."""
        storage = image.partition(":")[0]
        path = f"nodes/{node}/storage/{storage}/content"
        found = [v for v in self._api.get(path, content="import") if v["volid"] == image]
        if not found:
            raise NotFound(f"image {image} is not at {self.site}: stage it again")
        name = ImageName.parse(image.rpartition("/")[2])
        return int(found[0]["size"]) if name is None else name.size

    # -- power ---------------------------------------------------------------------------------

    def set_power(self, owner: OwnerTag, power: Power, manner: Manner = Manner.GRACEFUL) -> None:
        vm = self._mine(owner)
        on = self._status(vm)["status"] == "running"
        if power is Power.ON and vm.fenced:
            raise Conflict(f"VM {vm.vmid} at {self.site} is fenced: unfence it first")
        vm = self._stamped(vm, owner)
        if on is (power is Power.ON):
            return
        if lock := vm.config.get("lock"):
            raise Busy(f"VM {vm.vmid} at {self.site} is locked ({lock}): ask again")
        if power is Power.ON:
            self._start(vm)
        elif manner is Manner.GRACEFUL:
            self._api.post(f"{vm.path}/status/shutdown", timeout=_SHUTDOWN_SECONDS)
        else:
            # A polite shutdown that is still waiting holds the VM's lock; this ends it first.
            self._api.post(f"{vm.path}/status/stop", **{"overrule-shutdown": 1})

    def _start(self, vm: Vm) -> None:
        """Grow disks that are to be larger than their image, then start."""
        if vm.notes.grow:
            now = {slot: disk.size for slot, disk in mapping.disks(vm.config)}
            for slot, size in vm.notes.grow:
                if slot in now and now[slot] < size:
                    wish = f"{mapping.rounded(size) // MIB}M"
                    self._api.put(f"{vm.path}/resize", disk=slot, size=wish)
        self._api.post(f"{vm.path}/status/start")

    def delete(self, owner: OwnerTag) -> None:
        vm = self._lookup(owner)
        if vm is None:
            return
        self._current(vm, owner)
        with suppress(NotFound):  # an earlier call's task was faster
            self._stopped(vm, "deleting it")
            vm = self._stamped(vm, owner)
            if vm.config.get("lock") == LOCK and vm.notes.fence is not None:
                self._shell.unlock(vm.vmid)
            self._unwrite(vm)
            self._api.delete(vm.path, purge=1)

    # -- nics ----------------------------------------------------------------------------------

    def isolate_nics(self, owner: OwnerTag) -> None:
        vm = self._lookup(owner)
        if vm is None:
            return
        self._current(vm, owner)
        self._link(vm, owner, down=True)

    def give_up_nics(self, owner: OwnerTag) -> bool:
        """Proxmox VE does not mind two VMs with one MAC: a fence, or links down, give it up."""
        vm = self._lookup(owner)
        if vm is None:
            return True
        if self._status(vm)["status"] == "running":
            raise Conflict(f"VM {vm.vmid} at {self.site} runs: stop it first")
        if not vm.fenced:
            self.isolate_nics(owner)
        return True

    def connect_nics(self, owner: OwnerTag) -> None:
        self._link(self._mine(owner), owner, down=False)

    def _link(self, vm: Vm, owner: OwnerTag, *, down: bool) -> None:
        wish = {key: mapping.nic_link(v, down=down) for key, v in mapping.nics(vm.config).items()}
        changes = {key: value for key, value in wish.items() if value != vm.config[key]}
        self._changed(vm, changes, owner=owner)

    # -- signs of life -------------------------------------------------------------------------

    def agent_answers(self, owner: OwnerTag) -> bool:
        vm = self._lookup(owner)
        if vm is None:
            raise NotFound(f"site {self.site}: no VM carries the tag {owner.artefact}: look there")
        try:
            self._api.post(f"{vm.path}/agent/ping")
        except (Conflict, Unavailable) as e:
            if "guest agent" in words(e) or "is not running" in words(e):
                return False
            raise
        return True

    def probe_boot(self, owner: OwnerTag) -> str:
        """The agent's answer: Proxmox VE keeps no console log."""
        return "the guest agent answers" if self.agent_answers(owner) else ""

    # -- fences --------------------------------------------------------------------------------

    def fence(self, owner: OwnerTag) -> FenceProof:
        vm = self._mine(owner)
        self._stopped(vm, "fencing it")
        if vm.fenced:
            return self._proof(self._stamped(vm, owner))
        if lock := vm.config.get("lock"):
            raise Busy(f"VM {vm.vmid} at {self.site} is locked ({lock}): ask again")
        note = vm.notes.fence or self._note(vm)
        if note.ha:
            self._api.put(f"cluster/ha/resources/vm:{vm.vmid}", state="ignored")
        changes = {"onboot": "0"}
        if note.level is not FenceLevel.CANNOT_START:
            nics = mapping.nics(vm.config)
            changes |= {key: mapping.nic_link(value, down=True) for key, value in nics.items()}
        vm = self._changed(vm, changes, owner=owner, notes=replace(vm.notes, fence=note))
        if note.level is FenceLevel.CANNOT_START:
            digest = str(vm.config["digest"])
            self._shell.configure(vm.vmid, {"lock": LOCK, "digest": digest})
        return self._verified(self._mine(owner))

    def _note(self, vm: Vm) -> FenceNote:
        """What will have to be put back."""
        ha = [
            str(resource.get("state", "started"))
            for resource in self._api.get("cluster/ha/resources")
            if resource["sid"] == f"vm:{vm.vmid}"
        ]
        strong = self._shell.known
        links = [k for k, v in mapping.nics(vm.config).items() if "link_down=1" not in v]
        return FenceNote(
            level=FenceLevel.CANNOT_START if strong else FenceLevel.ISOLATED,
            onboot=str(vm.config.get("onboot", 0)) == "1",
            ha=ha[0] if ha else "",
            links=() if strong else tuple(links),
        )

    def verify_fence(self, owner: OwnerTag) -> FenceProof:
        vm = self._lookup(owner)
        if vm is None:
            raise NotFound(f"site {self.site}: no VM carries the tag {owner.artefact}: look there")
        return self._verified(vm)

    def _verified(self, vm: Vm) -> FenceProof:
        if not vm.fenced or self._status(vm)["status"] != "stopped":
            raise Conflict(
                f"VM {vm.vmid} at {self.site} could run: stop it and fence it again",
                reason="not-fenced",
            )
        return self._proof(vm)

    def _proof(self, vm: Vm) -> FenceProof:
        note = vm.notes.fence
        level = note.level if note else FenceLevel.REPORTED
        how = f"lock {LOCK}" if level is FenceLevel.CANNOT_START else "links down"
        return FenceProof(
            level=level,
            observer=f"{self.site}, node {vm.node}: {how} in the configuration of VM {vm.vmid}",
            epoch=vm.owner.epoch,
            at=datetime.now(UTC),
        )

    def unfence(self, owner: OwnerTag) -> None:
        vm = self._mine(owner)
        note = vm.notes.fence
        if note is None:
            self._stamped(vm, owner)
            return
        if vm.config.get("lock") == LOCK:
            self._shell.unlock(vm.vmid)
            vm = self._mine(owner)
        nics = mapping.nics(vm.config)
        changes = {k: mapping.nic_link(nics[k], down=False) for k in note.links if k in nics}
        changes["onboot"] = "1" if note.onboot else "0"
        self._changed(vm, changes, owner=owner, notes=replace(vm.notes, fence=None))
        if note.ha:
            self._api.put(f"cluster/ha/resources/vm:{vm.vmid}", state=note.ha)
