"""VMs of a pool that were not made by us: found, tagged, and given back."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace

from controlplane.domain.artefact import ArtefactKind
from controlplane.domain.discovery import Discovered
from controlplane.domain.disk import DiskBus
from controlplane.domain.errors import Conflict, NotFound, Unavailable, Unsupported
from controlplane.domain.owner import OwnerTag
from drivers.contract import TAKEN, Adoption
from drivers.xcpng import mapping, traits
from drivers.xcpng.base import View, XcpBase
from drivers.xcpng.client import Record
from drivers.xcpng.mapping import Notes

_ADOPTED = "adopted "
_CALM = {mapping.HALTED, mapping.RUNNING}


class XcpAdoption(XcpBase, Adoption):
    """A VM is marked in its other_config, where we keep our notes on VMs that we made, too."""

    def discovered(self) -> Iterator[Discovered]:
        view = self._view()
        storages = self._api.records("SR")
        return iter([self._described(view, vm, storages) for vm in _strange(view)])

    def _described(self, view: View, vm: Record, storages: Mapping[str, Record]) -> Discovered:
        drives = _drives(view, vm, "Disk")
        disks = [vdi for _, vdi in drives if vdi is not None]
        taken = [
            each
            for each in view.vms.values()
            if each.flag("is_a_snapshot") and each.text("snapshot_of") == vm.ref
        ]
        told = traits.traits(vm, disks, taken, storages)
        more = traits.of_drives([*drives, *_drives(view, vm, "CD")], view.users)
        kept = Notes(
            spec="",
            disks=tuple((vdi.uuid, vdi.number("virtual_size"), DiskBus.VIRTIO) for vdi in disks),
            addresses=(None,) * len(view.nics(vm.ref)),
            made=True,
        )
        nics = self._plugged(view, vm)
        return Discovered(
            seen=mapping.instance_seen(vm, None, kept, nics),
            firmware=mapping.firmware(vm),
            traits=replace(told, found=(*told.found, *more)),
            held=_held(vm),
        )

    def _plugged(self, view: View, vm: Record) -> list[tuple[Record, str]]:
        """Its nics, each with its network's uuid."""
        nics = view.nics(vm.ref)
        if any(vif.text("network") not in view.networks for vif in nics):
            raise Unavailable(f"site {self.site}: networks changed while they were read: ask again")
        return [(vif, view.networks[vif.text("network")].uuid) for vif in nics]

    def adopt(self, owner: OwnerTag, kind: ArtefactKind, ref: str) -> None:
        view = self._view()
        if kind is ArtefactKind.INSTANCE:
            self._adopt_vm(view, owner, ref)
        elif kind is ArtefactKind.VOLUME:
            self._adopt_vdi(view, owner, ref)
        else:
            raise Unsupported(f"site {self.site}: a {kind} is not adopted by itself")

    def disown(self, owner: OwnerTag, kind: ArtefactKind, ref: str) -> None:
        """What says whose it is goes last: until then the call can be repeated."""
        view = self._view()
        vm = kind is ArtefactKind.INSTANCE
        cls = "VM" if vm else "VDI"
        record = _of(view.vms if vm else view.vdis, ref)
        if record is None:
            return
        config = record.map("other_config")
        mine = config.get(mapping.SPEC) == _spec(owner) if vm else False
        stamp = mapping.stamps(config).get(owner.artefact)
        if stamp is not None:
            self._not_late(f"{cls} {ref}", owner, stamp.owner)
        if stamp is None and not mine:
            return
        tags = [k for k in config if (o := mapping.owner_of(k)) and o.artefact == owner.artefact]
        notes = (mapping.DISKS, mapping.NICS, mapping.MADE) if vm else (mapping.DONE,)
        for key in (*(k for k in notes if k in config), *tags, *((mapping.SPEC,) if mine else ())):
            self._api.call(f"{cls}.remove_from_other_config", record.ref, key)

    # -- VMs -----------------------------------------------------------------------------------

    def _adopt_vm(self, view: View, owner: OwnerTag, ref: str) -> None:
        """XAPI adds a key to a map once only: whoever adds the first of our notes has the VM."""
        record = _of(view.vms, ref)
        if record is None or record.flag("is_a_snapshot") or record.flag("is_a_template"):
            raise NotFound(f"there is no VM {ref} at {self.site}: scan it again")
        there = [vm for vm in self._vms(view) if vm.ref == record.ref]
        if any(vm.owner.artefact != owner.artefact for vm in there):
            raise self._another(f"VM {ref}")
        if there:
            self._current(there[0], owner)
            self._raised(there[0], owner)
            return
        if not self._added("VM", record.ref, mapping.SPEC, _spec(owner)):
            now = self._api.record("VM", record.ref).map("other_config")
            if now.get(mapping.SPEC) != _spec(owner):
                raise self._another(f"VM {ref}")
        disks = [
            [vdi.uuid, vdi.number("virtual_size"), str(DiskBus.VIRTIO)]
            for _, vdi in _drives(view, record, "Disk")
            if vdi is not None
        ]
        nics = [{"network": net, "address": None} for _, net in self._plugged(view, record)]
        for key, value in (
            (mapping.DISKS, json.dumps(disks)),
            (mapping.NICS, json.dumps(nics)),
            (mapping.MADE, "yes"),
            (owner.text(), mapping.INSTANCE),
        ):
            self._added("VM", record.ref, key, value)

    # -- VDIs ----------------------------------------------------------------------------------

    def _adopt_vdi(self, view: View, owner: OwnerTag, ref: str) -> None:
        record = _of(view.vdis, ref)
        if record is None:
            raise NotFound(f"there is no disk {ref} at {self.site}: scan it again")
        there = mapping.stamps(record.map("other_config"))
        if any(
            artefact != owner.artefact and stamp.kind in {mapping.VOLUME, mapping.IMAGE}
            for artefact, stamp in there.items()
        ):
            raise self._another(f"disk {ref}")
        if (stamp := there.get(owner.artefact)) is not None:
            self._not_late(f"disk {ref}", owner, stamp.owner)
            self._stamped("VDI", record, stamp, owner)
            return
        self._added("VDI", record.ref, mapping.DONE, "yes")
        self._added("VDI", record.ref, owner.text(), mapping.VOLUME)

    def _another(self, what: str) -> Conflict:
        return Conflict(
            f"{what} at {self.site} carries another tag already: it belongs to an instance of"
            " fedctl, look which",
            reason=TAKEN,
        )


def _strange(view: View) -> Iterator[Record]:
    for vm in view.vms.values():
        ours = any(
            stamp.kind == mapping.INSTANCE
            for stamp in mapping.stamps(vm.map("other_config")).values()
        )
        made = vm.flag("is_a_template") or vm.flag("is_a_snapshot") or vm.flag("is_control_domain")
        if not ours and not made:
            yield vm


def _held(vm: Record) -> str:
    """What works on it, in XAPI's words, or that another adoption does."""
    if doing := vm.map("current_operations"):
        return f"at {', '.join(doing.values())}"
    if vm.text("power_state") not in _CALM:
        return f"in the state {vm.text('power_state')}"
    if mapping.SPEC in vm.map("other_config"):
        return "being adopted, or its adoption broke off"
    return ""


def _drives(view: View, vm: Record, kind: str) -> list[tuple[Record, Record | None]]:
    """The VBDs of a kind in the order of their places, and their VDIs."""
    found = [v for v in view.vbds.values() if v.text("VM") == vm.ref and v.text("type") == kind]
    ordered = sorted(found, key=lambda v: (len(v.text("userdevice")), v.text("userdevice")))
    return [(vbd, view.vdis.get(vbd.text("VDI"))) for vbd in ordered]


def _of(records: dict[str, Record], uuid: str) -> Record | None:
    return next((record for record in records.values() if record.uuid == uuid), None)


def _spec(owner: OwnerTag) -> str:
    """In place of a wish's digest: the artefact whose adoption wrote the notes."""
    return f"{_ADOPTED}{owner.artefact.hex}"
