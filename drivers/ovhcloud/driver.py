"""The OVHcloud driver: all facets together, and everything of ours at a site."""

from collections.abc import Iterator

from controlplane.domain.artefact import ArtefactKind, Found
from controlplane.domain.owner import OwnerTag
from drivers.ovhcloud.instances import volume_of
from drivers.ovhcloud.transfers import OvhTransfers
from drivers.readable import readable


@readable
class OvhcloudDriver(OvhTransfers):
    """One open connection to a pool of OVHcloud servers; the card names its settings."""

    def owned(self) -> Iterator[Found]:
        found = []
        for each in self._pool():
            kinds: tuple[tuple[OwnerTag | None, ArtefactKind, str], ...] = (
                (each.notes.owner, ArtefactKind.INSTANCE, each.name),
                (each.notes.image, ArtefactKind.IMAGE, each.name),
                (each.notes.export, ArtefactKind.EXPORT, volume_of(each)),
            )
            found += [
                Found(owner=owner, kind=kind, ref=ref)
                for owner, kind, ref in kinds
                if owner is not None
            ]
        return iter(found)
