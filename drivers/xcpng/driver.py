"""The XCP-ng driver: all facets together, and everything of ours at a pool."""

from collections.abc import Iterator

from controlplane.domain.artefact import ArtefactKind, Found
from controlplane.domain.instance import Power
from drivers.readable import readable
from drivers.xcpng import mapping
from drivers.xcpng.adoption import XcpAdoption
from drivers.xcpng.instances import XcpInstances
from drivers.xcpng.networks import XcpNetworks
from drivers.xcpng.transfers import XcpTransfers


@readable
class XcpngDriver(XcpInstances, XcpTransfers, XcpNetworks, XcpAdoption):
    """One open connection to an XCP-ng pool; the card names its settings."""

    def owned(self) -> Iterator[Found]:
        view = self._view()
        found = [
            Found(
                owner=vm.owner,
                kind=ArtefactKind.INSTANCE,
                ref=vm.uuid,
                power_on=None if vm.power is None else vm.power is Power.ON,
            )
            for vm in self._vms(view)
        ]
        found += [
            Found(owner=stored.owner, kind=ArtefactKind(stored.kind), ref=stored.uuid)
            for stored in self._all_stored(view)
        ]
        found += [
            Found(owner=point.owner, kind=ArtefactKind.SNAPSHOT, ref=point.record.uuid)
            for point in self._points(view)
        ]
        found += [
            Found(owner=export.owner, kind=ArtefactKind.EXPORT, ref=export.record.uuid)
            for export in self._exports(view)
        ]
        known = {each.owner.artefact for each in found}
        found += [  # of an instance whose deletion broke off
            Found(owner=stamp.owner, kind=ArtefactKind.INSTANCE, ref=record.uuid)
            for record in view.vdis.values()
            for stamp in mapping.stamps(record.map("other_config")).values()
            if stamp.kind == mapping.SEED
            and not record.flag("is_a_snapshot")
            and stamp.owner.artefact not in known
        ]
        return iter(found)
