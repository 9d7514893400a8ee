"""Machines at a fake site that were not made through it: found, tagged, and given back."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TypeVar

from controlplane.domain.artefact import ArtefactKind
from controlplane.domain.discovery import Discovered
from controlplane.domain.errors import Conflict, NotFound, Unavailable, Unsupported
from controlplane.domain.ids import ArtefactId
from controlplane.domain.instance import Trait, Traits
from controlplane.domain.owner import OwnerTag
from controlplane.domain.site import CreateOrder
from drivers.contract import TAKEN, Adoption
from drivers.fake.base import FakeBase
from drivers.fake.compute import seen
from drivers.fake.site import FakeInstance, FakeSite, FakeVolume, Thing

T = TypeVar("T", bound=Thing)


class FakeAdoption(FakeBase, Adoption):
    def discovered(self) -> Iterator[Discovered]:
        with self._call("discovered") as site:
            if stale := site.stale():
                raise Unavailable(f"{stale.why}: list again")
            return iter(
                [
                    Discovered(
                        seen=replace(seen(it, settled=True), epoch=0),
                        firmware=it.spec.firmware,
                        traits=Traits(looked=frozenset(Trait), found=it.traits),
                    )
                    for it in site.strangers.values()
                ]
            )

    def adopt(self, owner: OwnerTag, kind: ArtefactKind, ref: str) -> None:
        with self._call("adopt", owner) as site:
            self._tagged(kind)
            things = self._of(site, kind)
            if (it := things.get(owner.artefact)) is not None:
                if it.ref != ref:
                    raise self._other_wish(it.ref)
                it.stamp(owner)
                return
            if any(thing.ref == ref for thing in things.values()):
                raise Conflict(
                    f"{ref} at {site.name} carries another tag already: look whose it is",
                    reason=TAKEN,
                )
            if kind is ArtefactKind.VOLUME:
                site.volumes[owner.artefact] = _given(site.strange_volumes, ref, owner, site.name)
                return
            found = _given(site.strangers, ref, owner, site.name)
            found.settling = site.settle
            site.instances[owner.artefact] = found
            for volume in found.volumes:
                volume.attached_to = owner.artefact
                if self.limits.create_order is CreateOrder.INSTANCE_FIRST:
                    del site.strange_volumes[volume.ref]
                    volume.made_by = owner.artefact
                    site.volumes[volume.owner.artefact] = volume
            site.record(found)

    def disown(self, owner: OwnerTag, kind: ArtefactKind, ref: str) -> None:
        with self._call("disown", owner) as site:
            self._tagged(kind)
            it = self._of(site, kind).get(owner.artefact)
            if it is None or it.ref != ref:
                return
            it.stamp(owner)
            del self._of(site, kind)[owner.artefact]
            it.epoch = it.settling = 0
            if isinstance(it, FakeVolume):
                site.strange_volumes[it.ref] = it
            elif isinstance(it, FakeInstance):
                self._stranger(site, it)

    def _stranger(self, site: FakeSite, it: FakeInstance) -> None:
        site.strangers[it.ref] = it
        site.record(it, on=False)
        for volume in it.volumes:
            volume.attached_to = None
            if volume.made_by == it.owner.artefact:
                volume.made_by = None
                del site.volumes[volume.owner.artefact]
                site.strange_volumes[volume.ref] = volume

    def _tagged(self, kind: ArtefactKind) -> None:
        first = self.limits.create_order is CreateOrder.DISKS_FIRST
        if kind is ArtefactKind.INSTANCE or (kind is ArtefactKind.VOLUME and first):
            return
        raise Unsupported(f"a {kind} at {self._site.name} is not adopted by itself")

    @staticmethod
    def _of(
        site: FakeSite, kind: ArtefactKind
    ) -> dict[ArtefactId, FakeVolume] | dict[ArtefactId, FakeInstance]:
        return site.volumes if kind is ArtefactKind.VOLUME else site.instances


def _given(things: dict[str, T], ref: str, owner: OwnerTag, site: str) -> T:
    if (it := things.pop(ref, None)) is None:
        raise NotFound(f"there is no {ref} at {site} any more: scan it again")
    it.owner, it.epoch = owner, owner.epoch
    return it
