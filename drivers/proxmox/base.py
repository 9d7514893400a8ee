"""A connection to a Proxmox VE site: where things are, whose they are, and how they are stamped."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from controlplane.domain.errors import (
    Busy,
    Conflict,
    Denied,
    FedctlError,
    Integrity,
    NotFound,
    Unavailable,
    superseded,
)
from controlplane.domain.fence import FenceLevel
from controlplane.domain.owner import OwnerTag
from controlplane.domain.site import (
    Capability,
    Catalogue,
    Changes,
    Health,
    Limits,
    QuotaSeen,
    SiteAccess,
    StorageSeen,
)
from drivers.contract import Quota
from drivers.proxmox import mapping, marks
from drivers.proxmox.client import PveClient
from drivers.proxmox.mapping import LIMITS, LOCK
from drivers.proxmox.marks import Notes
from drivers.proxmox.shell import NodeShell

_WANTED = {
    "/vms": (
        *("VM.Allocate", "VM.Audit", "VM.Config.CPU", "VM.Config.Disk", "VM.Config.Memory"),
        *("VM.Config.Network", "VM.Config.Options", "VM.PowerMgmt", "VM.Snapshot"),
    ),
    "/storage": (
        *("Datastore.Allocate", "Datastore.AllocateSpace", "Datastore.AllocateTemplate"),
        "Datastore.Audit",
    ),
    "/nodes": ("Sys.Audit",),
}


_BY_SHELL = (Capability.DISK_EXPORT, Capability.DISK_IMPORT, Capability.PAUSING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vm:
    """A VM of ours as its configuration shows it."""

    node: str
    vmid: int
    config: dict[str, Any]
    owner: OwnerTag
    notes: Notes

    @property
    def path(self) -> str:
        return f"nodes/{self.node}/qemu/{self.vmid}"

    @property
    def fenced(self) -> bool:
        return mapping.is_fenced(self.config, self.notes)


class ProxmoxBase(Quota):
    limits: Limits = LIMITS

    def __init__(self, access: SiteAccess) -> None:
        self.site = access.site
        self._options = access.options
        self._api = PveClient(access)
        self._shell = NodeShell(access, host=self._api.host)
        if not self._shell.known:
            self.limits = replace(
                LIMITS,
                fence_level=FenceLevel.ISOLATED,
                changes=Changes.UNTOLD,
                user_data=False,
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.site!r})"

    def close(self) -> None:
        self._shell.close()
        self._api.close()

    # -- the site ------------------------------------------------------------------------------

    def check(self) -> Health:
        """Log in, and tell an empty site from one that we may not see."""
        version = str(self._api.get("version")["version"])
        held = self._api.get("access/permissions")
        missing = {
            path: lacks
            for path, wanted in _WANTED.items()
            if (lacks := tuple(r for r in wanted if not _holds(held, path, r)))
        }
        if missing:
            told = "; ".join(f"{path}: {', '.join(lacks)}" for path, lacks in missing.items())
            raise Denied(
                f"site {self.site}: token {self._api.user} lacks rights ({told}): grant a role"
                " with them on / to the user and, as the token is separated, to the token too"
            )
        self._storages("images")
        lacking = {}
        if not self._shell.known:
            why = "no ssh key for root was given; disks leave and change through the node's shell"
            lacking = dict.fromkeys(_BY_SHELL, why)
        else:
            try:
                self._shell.served()
            except Integrity:
                raise  # another host answers as this node: nothing of it may be trusted
            except FedctlError as e:
                lacking = dict.fromkeys(_BY_SHELL, str(e))
        offline = [n["node"] for n in self._api.get("nodes") if n["status"] != "online"]
        warnings = (f"nodes that do not answer: {', '.join(offline)}",) if offline else ()
        return Health(version=version, lacking=lacking, warnings=warnings)

    def catalogue(self) -> Catalogue:
        bridges = self._api.get(f"nodes/{self._node()}/network", type="any_bridge")
        return Catalogue(
            networks=mapping.networks(bridges),
            storages=tuple(
                StorageSeen(name=s["storage"], free=s.get("avail"))
                for s in self._storages("images")
            ),
        )

    def quota(self) -> QuotaSeen:
        free = next(
            (s.get("avail") for s in self._storages("images") if s["storage"] == self._disks()),
            None,
        )
        return QuotaSeen(disk=free)

    # -- where ---------------------------------------------------------------------------------

    def _node(self) -> str:
        """The node that new things are made on."""
        if wish := self._options.get("node"):
            return wish
        online = sorted(n["node"] for n in self._api.get("nodes") if n["status"] == "online")
        if not online:
            raise Unavailable(f"site {self.site}: no node is online: ask again later")
        return str(online[0])

    def _storages(self, content: str) -> list[dict[str, Any]]:
        """The node's active storages for such content; Denied when we may see none."""
        found = [
            storage
            for storage in self._api.get(f"nodes/{self._node()}/storage", content=content)
            if storage.get("active", 1) and storage.get("enabled", 1)
        ]
        if not found:
            raise Denied(
                f"site {self.site}: no storage for {content} can be seen on node {self._node()}:"
                " enable that content on one, and grant Datastore.Audit to user and token"
            )
        return found

    def _disks(self) -> str:
        """The storage that new disks are made on."""
        if wish := self._options.get("storage"):
            return wish
        found = self._storages("images")
        blocks = [s for s in found if s["type"] != "dir"]  # a directory's raw has no snapshots
        return str((blocks or found)[0]["storage"])

    def _images(self) -> str:
        """The storage that images come in by."""
        return self._options.get("images") or str(self._storages("import")[0]["storage"])

    def _listed(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every VM that every node shows live; Unavailable when one does not answer."""
        for node in self._api.get("nodes"):
            if node["status"] != "online":
                raise Unavailable(
                    f"site {self.site}: node {node['node']} is {node['status']}, its VMs cannot be"
                    " seen: ask again when it is back"
                )
            for vm in self._api.get(f"nodes/{node['node']}/qemu"):
                yield node["node"], vm

    # -- whose ---------------------------------------------------------------------------------

    def _read(self, node: str, vmid: int, *, reserved: bool = False) -> Vm | None:
        """The VM if it exists and is ours; Busy while a `reserved` id is being made a VM."""
        try:
            config = self._api.get(f"nodes/{node}/qemu/{vmid}/config", current=1)
        except NotFound:
            return None
        owner = marks.owner_of(config.get("tags"))
        if reserved and owner is None and config.get("lock") == "create":
            raise Busy(f"site {self.site} is making VM {vmid}: ask again")
        if owner is None:
            return None
        notes = marks.read_notes(config.get("description"))
        return Vm(node=node, vmid=vmid, config=config, owner=owner, notes=notes)

    def _lookup(self, owner: OwnerTag) -> Vm | None:
        """Our VM by its tag. Busy while one of our own is being made, and may be it."""
        creating = False
        for node, listed in self._listed():
            seen = marks.owner_of(listed.get("tags"))
            if seen is not None and seen.artefact == owner.artefact:
                vm = self._read(node, int(listed["vmid"]))
                if vm is not None and vm.owner.artefact == owner.artefact:
                    return vm
            creating = creating or (seen is None and listed.get("lock") == "create")
        if creating and self._creating():
            raise Busy(
                f"site {self.site}: a VM is being made whose tag does not show yet: ask again"
            )
        return None

    def _creating(self) -> bool:
        """Whether a creation that this token asked for is under way."""
        return any(
            task["user"] == self._api.user
            for task in self._api.get(
                f"nodes/{self._node()}/tasks", source="active", typefilter="qmcreate"
            )
        )

    def _mine(self, owner: OwnerTag) -> Vm:
        """Our VM by its tag, for an effect: NotFound, or superseded."""
        vm = self._lookup(owner)
        if vm is None:
            raise NotFound(f"site {self.site}: no VM carries the tag {owner.artefact}: look there")
        self._current(vm, owner)
        return vm

    def _current(self, vm: Vm, owner: OwnerTag) -> None:
        if owner.epoch < vm.owner.epoch:
            raise superseded(
                f"VM {vm.vmid} at {self.site}", presented=owner.epoch, found=vm.owner.epoch
            )

    def _not_late(self, owner: OwnerTag, found: OwnerTag) -> None:
        if owner.epoch < found.epoch:
            raise superseded(
                f"{owner.artefact} at {self.site}", presented=owner.epoch, found=found.epoch
            )

    def _status(self, vm: Vm) -> Mapping[str, Any]:
        status: Mapping[str, Any] = self._api.get(f"{vm.path}/status/current")
        return status

    def _stopped(self, vm: Vm, purpose: str) -> None:
        if self._status(vm)["status"] != "stopped":
            raise Conflict(f"VM {vm.vmid} at {self.site} is running: stop it before {purpose}")

    # -- stamps --------------------------------------------------------------------------------

    def _stamped(self, vm: Vm, owner: OwnerTag) -> Vm:
        """The VM with the epoch of this effect on it."""
        return vm if owner.epoch == vm.owner.epoch else self._changed(vm, {}, owner=owner)

    def _changed(
        self,
        vm: Vm,
        changes: dict[str, str],
        *,
        owner: OwnerTag | None = None,
        notes: Notes | None = None,
    ) -> Vm:
        """Change the configuration that was read, and no other; past a fence of ours by root."""
        owner = owner if owner and owner.epoch > vm.owner.epoch else vm.owner
        kept = replace(notes or vm.notes, owner=owner)
        wish = dict(changes)
        if owner != vm.owner:
            wish["tags"] = marks.tags_with(wish.get("tags", vm.config.get("tags")), owner)
        if kept != vm.notes:
            wish["description"] = marks.write_notes(kept)
        if wish:
            digest = {"digest": str(vm.config["digest"])}
            if vm.config.get("lock") == LOCK and vm.notes.fence is not None:
                self._shell.configure(vm.vmid, wish | digest, skiplock=True)
            else:
                self._api.put(f"{vm.path}/config", **wish, **digest)
        fresh = self._read(vm.node, vm.vmid)
        if fresh is None:
            raise NotFound(f"VM {vm.vmid} at {self.site} is gone: look there")
        return fresh


def _holds(held: Mapping[str, Mapping[str, int]], path: str, right: str) -> bool:
    """Whether a right is held on a path or above it."""
    return any(right in held.get(place, {}) for place in (path, "/"))
