"""A connection to an XCP-ng pool: what is there, whose it is, and how it is stamped."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from controlplane.domain.errors import Busy, Conflict, Denied, NotFound, superseded
from controlplane.domain.ids import ArtefactId
from controlplane.domain.instance import Power
from controlplane.domain.network import NetworkSeen
from controlplane.domain.owner import OwnerTag
from controlplane.domain.site import (
    Catalogue,
    Health,
    Limits,
    QuotaSeen,
    SiteAccess,
    StorageSeen,
)
from drivers.contract import Quota
from drivers.xcpng import mapping
from drivers.xcpng.client import NULL, Record, XapiClient, code_of
from drivers.xcpng.mapping import LIMITS, Notes, Stamp

_INTERNAL = "is_host_internal_management_network"
_NBD = {"nbd", "insecure_nbd"}


class View:
    """What the pool shows during one call of a driver; each class is listed once, when needed."""

    def __init__(self, api: XapiClient) -> None:
        self._api = api

    @cached_property
    def vms(self) -> dict[str, Record]:
        return self._api.records("VM")

    @cached_property
    def vdis(self) -> dict[str, Record]:
        return self._api.records("VDI")

    @cached_property
    def vbds(self) -> dict[str, Record]:
        return self._api.records("VBD")

    @cached_property
    def vifs(self) -> dict[str, Record]:
        return self._api.records("VIF")

    @cached_property
    def networks(self) -> dict[str, Record]:
        return self._api.records("network")

    def users(self, vdi: str) -> list[Record]:
        """VMs, not snapshots of them, that have a disk; the control domain has it to read it."""
        vms = [self.vms.get(vbd.text("VM")) for vbd in self.vbds.values() if vbd.text("VDI") == vdi]
        return [
            vm
            for vm in vms
            if vm is not None and not vm.flag("is_control_domain") and not vm.flag("is_a_snapshot")
        ]

    def nics(self, vm: str) -> list[Record]:
        found = [vif for vif in self.vifs.values() if vif.text("VM") == vm]
        return sorted(found, key=lambda vif: vif.number("device"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Vm:
    """A VM of ours as its record shows it."""

    record: Record
    owner: OwnerTag
    notes: Notes

    @property
    def ref(self) -> str:
        return self.record.ref

    @property
    def uuid(self) -> str:
        return self.record.uuid

    @property
    def fenced(self) -> bool:
        return mapping.is_fenced(self.record)

    @property
    def power(self) -> Power | None:
        return mapping.power(self.record)

    @property
    def state(self) -> str:
        return self.record.text("power_state")


class XcpBase(Quota):
    limits: Limits = LIMITS

    def __init__(self, access: SiteAccess) -> None:
        self.site = access.site
        self._options = access.options
        self._api = XapiClient(access)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.site!r})"

    def close(self) -> None:
        self._api.close()

    # -- the site ------------------------------------------------------------------------------

    def check(self) -> Health:
        """Log in, see storage, and look by which way disks can be read."""
        hosts = list(self._api.records("host").values())
        if not hosts:
            raise Denied(f"site {self.site}: no host can be seen: give the user a larger role")
        told = hosts[0].map("software_version")
        self._storage(None)
        plain = "the endpoint is plain http: the password goes over the network as it is"
        streams = (
            "no network has the purpose nbd: disks leave as VHD streams, changes in blocks of 2 MiB"
            " instead of 64 KiB (xe network-param-add param-name=purpose param-key=nbd)"
        )
        warnings = [] if self._api.encrypted else [plain]
        return Health(
            version=f"{told.get('product_brand', '')} {told.get('product_version', '')}".strip(),
            warnings=(*warnings, *(() if self._purposes() & _NBD else (streams,))),
        )

    def catalogue(self) -> Catalogue:
        storages = self._storages()
        labels = [sr.text("name_label") for sr in storages]
        return Catalogue(
            networks=tuple(
                NetworkSeen(ref=net.uuid, name=net.text("name_label"))
                for net in self._api.records("network").values()
                if net.map("other_config").get(_INTERNAL) != "true"
            ),
            storages=tuple(
                StorageSeen(
                    # Each host of a pool may have a "Local storage".
                    name=label if labels.count(label) == 1 else f"{label} ({sr.uuid[:8]})",
                    free=_free(sr),
                )
                for label, sr in zip(labels, storages, strict=True)
            ),
        )

    def quota(self) -> QuotaSeen:
        """XAPI knows no quotas: what the storage has room for is all there is."""
        return QuotaSeen(disk=_free(self._storage(None)))

    def _purposes(self) -> set[str]:
        nets = self._api.records("network").values()
        return {purpose for net in nets for purpose in net.refs("purpose")}

    def _storages(self) -> list[Record]:
        """The storages for disks; Denied when we may see none."""
        found = [
            sr
            for sr in self._api.records("SR").values()
            if sr.text("content_type") == "user" and sr.text("type") not in {"iso", "udev"}
        ]
        if not found:
            raise Denied(f"site {self.site}: no storage for disks can be seen: give the user one")
        return sorted(found, key=lambda sr: sr.uuid)

    def _storage(self, name: str | None) -> Record:
        """Where new disks go: the wished one, the option's, the pool's default, or the first."""
        found, wish = self._storages(), name or self._options.get("storage")
        if wish is None:
            pool = next(iter(self._api.records("pool").values()), None)
            default = NULL if pool is None else pool.text("default_SR")
            return next((sr for sr in found if sr.ref == default), found[0])
        for sr in found:
            label = sr.text("name_label")
            if wish in {sr.uuid, label, f"{label} ({sr.uuid[:8]})"}:
                return sr
        raise NotFound(
            f"site {self.site}: there is no storage {wish}: choose one of"
            f" {', '.join(sr.text('name_label') for sr in found)}"
        )

    # -- whose ---------------------------------------------------------------------------------

    def _view(self) -> View:
        return View(self._api)

    def _vms(self, view: View) -> Iterator[Vm]:
        """Every VM of ours; snapshots carry copies of its tag and do not count."""
        for record in view.vms.values():
            if record.flag("is_a_snapshot"):
                continue
            config = record.map("other_config")
            for stamp in mapping.stamps(config).values():
                if stamp.kind == mapping.INSTANCE:
                    yield Vm(record=record, owner=stamp.owner, notes=mapping.notes(config))

    def _lookup(self, view: View, artefact: ArtefactId) -> Vm | None:
        """Our VM by its tag; the one that is whole, if a create that was thought lost made two."""
        found = [vm for vm in self._vms(view) if vm.owner.artefact == artefact]
        return min(found, key=lambda vm: (not vm.notes.made, vm.uuid), default=None)

    def _mine(self, view: View, owner: OwnerTag) -> Vm:
        """Our VM by its tag, for an effect: NotFound, or superseded."""
        vm = self._lookup(view, owner.artefact)
        if vm is None:
            raise NotFound(f"site {self.site}: no VM carries the tag {owner.artefact}: look there")
        self._current(vm, owner)
        return vm

    def _current(self, vm: Vm, owner: OwnerTag) -> None:
        self._not_late(f"VM {vm.uuid}", owner, vm.owner)
        self._whole(vm)

    def _whole(self, vm: Vm) -> None:
        if vm.notes.damaged:
            raise Conflict(
                f"the notes of VM {vm.uuid} at {self.site} were changed by hand: put the fedctl"
                " keys of its other_config back"
            )

    def _not_late(self, what: str, owner: OwnerTag, found: OwnerTag) -> None:
        if owner.epoch < found.epoch:
            raise superseded(f"{what} at {self.site}", presented=owner.epoch, found=found.epoch)

    def _stopped(self, vm: Vm, purpose: str) -> None:
        """Conflict while it runs, Busy while it is on its way somewhere."""
        if vm.record.map("current_operations"):
            raise self._under_way(vm)
        if vm.state != mapping.HALTED:
            raise Conflict(
                f"VM {vm.uuid} at {self.site} is {vm.state.lower()}: stop it before {purpose}"
            )

    def _under_way(self, vm: Vm) -> Busy:
        what = ", ".join(vm.record.map("current_operations").values())
        return Busy(f"VM {vm.uuid} at {self.site} is changing ({what}): ask again")

    # -- stamps and notes ----------------------------------------------------------------------

    def _stamped(self, cls: str, record: Record, stamp: Stamp, owner: OwnerTag) -> None:
        """Raise the epoch on an object: the new tag comes before the old one goes."""
        if owner.epoch <= stamp.owner.epoch:
            return
        self._added(cls, record.ref, owner.text(), stamp.kind)
        for key in mapping.older(record.map("other_config"), owner):
            self._api.call(f"{cls}.remove_from_other_config", record.ref, key)

    def _raised(self, vm: Vm, owner: OwnerTag) -> None:
        stamp = Stamp(owner=vm.owner, kind=mapping.INSTANCE)
        self._stamped("VM", vm.record, stamp, owner)

    def _added(self, cls: str, ref: str, key: str, value: str) -> bool:
        """Whether the key is ours now; one that is there stays as it is."""
        try:
            self._api.call(f"{cls}.add_to_other_config", ref, key, value)
        except Conflict as e:
            if code_of(e) != "MAP_DUPLICATE_KEY":
                raise
            return False
        return True

    def _noted(self, cls: str, ref: str, key: str, value: str) -> None:
        """The key with this value, whatever it had; Busy when another did the same just now."""
        self._api.call(f"{cls}.remove_from_other_config", ref, key)
        if not self._added(cls, ref, key, value):
            raise Busy(f"{cls} at {self.site}: {key} was changed just now: ask again")


def _free(sr: Record) -> int:
    return max(sr.number("physical_size") - sr.number("physical_utilisation"), 0)
