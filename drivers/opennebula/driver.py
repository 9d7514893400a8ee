"""The OpenNebula driver: all facets together, and everything of ours at a site."""

from collections.abc import Iterator

from controlplane.domain.artefact import ArtefactKind, Found
from controlplane.domain.instance import Power
from drivers.opennebula import mapping
from drivers.opennebula.adoption import OneAdoption
from drivers.opennebula.instances import OneInstances
from drivers.opennebula.transfers import OneTransfers
from drivers.readable import readable


@readable
class OpenNebulaDriver(OneInstances, OneTransfers, OneAdoption):
    """One open connection to an OpenNebula site; the card names its settings."""

    def owned(self) -> Iterator[Found]:
        vms = list(self._vms())
        found = [
            Found(
                owner=vm.owner,
                kind=ArtefactKind.INSTANCE,
                ref=str(vm.id),
                power_on=None if vm.power is None else vm.power is Power.ON,
            )
            for vm in vms
        ]
        found += [
            Found(owner=stored.owner, kind=ArtefactKind(stored.kind), ref=str(stored.id))
            for stored in self._all_stored()
            if stored.state != mapping.DELETE
        ]
        found += [
            Found(owner=point.owner, kind=ArtefactKind.SNAPSHOT, ref=point.ref)
            for point in self._points()
            if not point.leaving
        ]
        marked = {each.owner.artefact for each in found}
        found += [
            Found(owner=noted, kind=ArtefactKind.SNAPSHOT, ref=f"{vm.id}/{noted.artefact.hex}")
            for vm in vms
            if vm.notes.point is not None
            and (noted := mapping.owner_of(vm.notes.point.owner)) is not None
            and noted.artefact not in marked
        ]
        found += [
            Found(owner=export.owner, kind=ArtefactKind.EXPORT, ref=export.socket)
            for export in self._shell.served()
            if not export.writable
        ]
        return iter(found)
