"""A connection to an OpenNebula site: what is there, whose it is, and how it is stamped."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from controlplane.domain.disk import MIB
from controlplane.domain.errors import (
    Busy,
    Conflict,
    Denied,
    FedctlError,
    Integrity,
    NotFound,
    superseded,
)
from controlplane.domain.instance import Power
from controlplane.domain.owner import OwnerTag
from controlplane.domain.site import (
    Capability,
    Catalogue,
    Health,
    Limits,
    QuotaSeen,
    SiteAccess,
    StorageSeen,
)
from drivers.contract import Quota
from drivers.opennebula import mapping
from drivers.opennebula.client import OneClient, Record
from drivers.opennebula.mapping import LIMITS, Notes
from drivers.opennebula.shell import DatastoreShell

_ALL = -2  # every object that we may see
_WHOLE = (-1, -1)  # not a page of them
_LIVING = -1  # VMs that are not DONE
_MERGE = 1
_LOCK_ALL = 4
_IMAGES, _BACKUPS = 0, 3  # types of datastores
_BY_SHELL = (Capability.IMAGE_PULL, Capability.DISK_EXPORT, Capability.DISK_IMPORT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vm:
    """A VM of ours as its record shows it."""

    id: int
    record: Record
    notes: Notes

    @property
    def owner(self) -> OwnerTag:
        return self.notes.owner

    @property
    def fenced(self) -> bool:
        return mapping.is_fenced(self.record, self.notes)

    @property
    def locked(self) -> bool:
        return self.record.number("LOCK/LOCKED", 0) > 0

    @property
    def power(self) -> Power | None:
        return mapping.power(self.record)

    @property
    def shown(self) -> tuple[int, int]:
        return self.record.number("STATE"), self.record.number("LCM_STATE")


class OneBase(Quota):
    limits: Limits = LIMITS

    def __init__(self, access: SiteAccess) -> None:
        self.site = access.site
        self._options = access.options
        self._api = OneClient(access)
        self._shell = DatastoreShell(access, host=self._api.host)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.site!r})"

    def close(self) -> None:
        self._shell.close()
        self._api.close()

    # -- the site ------------------------------------------------------------------------------

    def check(self) -> Health:
        """Log in, see an image datastore, and look whether disks can be reached."""
        version = str(self._api.call("system.version"))
        self._api.record("user.info", -1)
        self._datastore(None)
        lacking: dict[Capability, str] = {}
        try:
            self._shell.served()
        except Integrity:
            raise  # another host answers: nothing of it may be trusted
        except FedctlError as e:
            lacking = dict.fromkeys(_BY_SHELL, str(e))
        if self._backup_datastore() is None:
            lacking[Capability.SNAPSHOTS] = "there is no backup datastore"
        plain = "the endpoint is plain http: the token goes over the network as it is"
        warnings = () if self._api.encrypted else (plain,)
        return Health(version=version, lacking=lacking, warnings=warnings)

    def catalogue(self) -> Catalogue:
        return Catalogue(
            networks=mapping.networks(self._api.record("vnpool.info", _ALL, *_WHOLE)),
            storages=tuple(
                StorageSeen(name=ds.text("NAME"), free=_free(ds)) for ds in self._datastores()
            ),
        )

    def quota(self) -> QuotaSeen:
        """What the user's own quotas and the datastore's room leave; defaults are not told."""
        user = self._api.record("user.info", -1)
        datastore = self._datastore(None)
        vms = user.all("VM_QUOTA/VM")
        held = [
            quota
            for quota in user.all("DATASTORE_QUOTA/DATASTORE")
            if quota.text("ID") == datastore.text("ID")
        ]
        memory, size = mapping.left(vms, "MEMORY"), mapping.left(held, "SIZE")
        return QuotaSeen(
            instances=mapping.left(vms, "VMS"),
            cpus=mapping.left(vms, "CPU"),
            memory=None if memory is None else memory * MIB,
            volumes=mapping.left(held, "IMAGES"),
            disk=_free(datastore) if size is None else min(size * MIB, _free(datastore)),
        )

    def _datastores(self) -> list[Record]:
        """The datastores for images; Denied when we may see none."""
        pool = self._api.record("datastorepool.info").all("DATASTORE")
        found = [ds for ds in pool if ds.number("TYPE") == _IMAGES and not ds.number("STATE", 0)]
        if not found:
            raise Denied(
                f"site {self.site}: no image datastore can be seen: grant the user USE on one"
            )
        return sorted(found, key=lambda ds: ds.number("ID"))

    def _datastore(self, name: str | None) -> Record:
        """Where new images go: the wished one, the option's, or the first."""
        found, wish = self._datastores(), name or self._options.get("datastore")
        for ds in found:
            if wish in {None, ds.text("NAME"), ds.text("ID")}:
                return ds
        raise NotFound(
            f"site {self.site}: there is no image datastore {wish}: choose one of"
            f" {', '.join(ds.text('NAME') for ds in found)}"
        )

    def _backup_datastore(self) -> int | None:
        """Where backups go: the option's, or the first."""
        wish = self._options.get("backup_datastore")
        found = [
            ds.number("ID")
            for ds in self._api.record("datastorepool.info").all("DATASTORE")
            if ds.number("TYPE") == _BACKUPS and wish in {None, ds.text("NAME"), ds.text("ID")}
        ]
        return min(found, default=None)

    # -- whose ---------------------------------------------------------------------------------

    def _vms(self) -> Iterator[Vm]:
        """Every VM of ours that is not done, in one complete listing."""
        pool = self._api.record("vmpool.infoextended", _ALL, *_WHOLE, _LIVING)
        for record in pool.all("VM"):
            if (vm := _ours(record)) is not None:
                yield vm

    def _lookup(self, owner: OwnerTag) -> Vm | None:
        """Our VM by its tag; the oldest, if a create that was thought lost made two."""
        found = [vm for vm in self._vms() if vm.owner.artefact == owner.artefact]
        return min(found, key=lambda vm: vm.id, default=None)

    def _mine(self, owner: OwnerTag) -> Vm:
        """Our VM by its tag, for an effect: NotFound, or superseded."""
        vm = self._lookup(owner)
        if vm is None:
            raise NotFound(f"site {self.site}: no VM carries the tag {owner.artefact}: look there")
        self._current(vm, owner)
        return vm

    def _current(self, vm: Vm, owner: OwnerTag) -> None:
        self._not_late(f"VM {vm.id}", owner, vm.owner)
        self._whole(vm)

    def _whole(self, vm: Vm) -> None:
        if vm.notes.damaged:
            raise Conflict(
                f"the notes of VM {vm.id} at {self.site} were changed by hand: put its FEDCTL"
                " attributes back"
            )

    def _not_late(self, what: str, owner: OwnerTag, found: OwnerTag) -> None:
        if owner.epoch < found.epoch:
            raise superseded(f"{what} at {self.site}", presented=owner.epoch, found=found.epoch)

    def _id(self, what: str, ref: str) -> int:
        """A ref of ours as oned's number; NotFound for what is none."""
        if not ref.isdecimal():
            raise NotFound(f"site {self.site}: there is no {what} {ref!r}: look there")
        return int(ref)

    def _read(self, number: int) -> Vm:
        vm = _ours(self._api.record("vm.info", number))
        if vm is None or vm.shown[0] == mapping.DONE:
            raise NotFound(f"VM {number} at {self.site} is gone: look there")
        return vm

    def _stopped(self, vm: Vm, purpose: str) -> None:
        """Conflict while it runs, Busy while it is on its way somewhere."""
        if vm.power is Power.ON:
            raise Conflict(f"VM {vm.id} at {self.site} is running: stop it before {purpose}")
        if vm.power is None:
            raise self._under_way(vm)

    def _under_way(self, vm: Vm) -> Busy:
        state, lcm = vm.shown
        return Busy(f"VM {vm.id} at {self.site} is changing (state {state}/{lcm}): ask again")

    # -- stamps --------------------------------------------------------------------------------

    def _stamped(self, vm: Vm, owner: OwnerTag) -> Vm:
        """The VM with the epoch of this effect on it."""
        return self._changed(vm, vm.notes, owner=owner)

    def _changed(self, vm: Vm, notes: Notes, *, owner: OwnerTag) -> Vm:
        """The VM with these notes and no lower epoch."""
        newest = owner if owner.epoch > vm.owner.epoch else vm.owner
        notes = replace(notes, owner=newest)
        if notes == vm.notes:
            return vm
        with self._open(vm):
            self._api.call("vm.update", vm.id, mapping.template(notes.attributes()), _MERGE)
        return self._read(vm.id)

    @contextmanager
    def _open(self, vm: Vm) -> Iterator[None]:
        """A fenced VM is unlocked for just that long: oned changes nothing of a locked one."""
        if not vm.fenced:
            yield
            return
        self._api.call("vm.unlock", vm.id)
        try:
            yield
        finally:
            self._api.call("vm.lock", vm.id, _LOCK_ALL)


def _ours(record: Record) -> Vm | None:
    notes = mapping.notes(record)
    return None if notes is None else Vm(id=record.number("ID"), record=record, notes=notes)


def _free(datastore: Record) -> int:
    return max(datastore.number("FREE_MB", 0), 0) * MIB
