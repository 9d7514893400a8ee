"""VMs of an OpenNebula site that were not made by us: found, tagged, and given back."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from controlplane.domain.artefact import ArtefactKind
from controlplane.domain.discovery import Discovered
from controlplane.domain.errors import Conflict, NotFound, Unsupported
from controlplane.domain.owner import OwnerTag
from drivers.contract import TAKEN, Adoption
from drivers.opennebula import mapping, traits
from drivers.opennebula.base import OneBase
from drivers.opennebula.client import Record

_ALL, _LIVING = (-2, -1, -1), -1
_REPLACE, _MERGE = 0, 1
_ASKS = "FEDCTL_ASKS_"
_OURS = "FEDCTL_"


class OneAdoption(OneBase, Adoption):
    """A VM is marked in its user template, where our notes on VMs that we made stand, too.

    oned takes no single attribute away: giving back writes the rest of a template anew.
    """

    def discovered(self) -> Iterator[Discovered]:
        pool = self._api.record("vmpool.infoextended", *_ALL, _LIVING)
        strange = [vm for vm in pool.all("VM") if mapping.notes(vm) is None]
        images = {i.text("ID"): i for i in self._api.record("imagepool.info", *_ALL).all("IMAGE")}
        held = Counter(
            disk.text("IMAGE_ID") for vm in pool.all("VM") for disk in vm.all("TEMPLATE/DISK")
        )
        shared = frozenset(image for image, number in held.items() if number > 1)
        return iter([_described(vm, images, shared) for vm in strange])

    def adopt(self, owner: OwnerTag, kind: ArtefactKind, ref: str) -> None:
        if kind is ArtefactKind.INSTANCE:
            self._adopt("vm", "USER_TEMPLATE", owner, ref)
        elif kind is ArtefactKind.VOLUME:
            self._adopt("image", "TEMPLATE", owner, ref)
        else:
            raise Unsupported(f"site {self.site}: a {kind} is not adopted by itself")

    def disown(self, owner: OwnerTag, kind: ArtefactKind, ref: str) -> None:
        what, place = ("vm", "USER_TEMPLATE") if kind is ArtefactKind.INSTANCE else _IMAGE
        try:
            record = self._shown(what, ref)
        except NotFound:
            return
        there = mapping.owner_of(record.text(f"{place}/FEDCTL_OWNER"))
        if there is not None and there.artefact == owner.artefact:
            self._not_late(f"{what} {ref}", owner, there)
            gone = _OURS
        else:
            gone = _asks(owner)
        self._without(what, place, record, gone)

    # -- inside --------------------------------------------------------------------------------

    def _adopt(self, what: str, place: str, owner: OwnerTag, ref: str) -> None:
        """Each announces itself before it looks: of two at least one sees the other, and lets go.

        An attribute can be written by two, and the last one stays.
        """
        record = self._shown(what, ref)
        there = mapping.owner_of(record.text(f"{place}/FEDCTL_OWNER"))
        if there is not None and there.artefact != owner.artefact:
            raise self._another(what, ref)
        if there is not None:
            self._not_late(f"{what} {ref}", owner, there)
            if owner.epoch > there.epoch:
                self._write(what, record, {"FEDCTL_OWNER": owner.text()})
            return
        self._write(what, record, {_asks(owner): "yes"})
        record = self._shown(what, ref)
        if record.text(f"{place}/FEDCTL_OWNER") or self._asking(record, place) != {_asks(owner)}:
            self._without(what, place, record, _asks(owner))
            raise self._another(what, ref)
        if what == "vm":
            marks = mapping.noted(record, owner).attributes()
        else:
            marks = {
                "FEDCTL_KIND": "volume",
                "FEDCTL_DONE": "yes",
                "FEDCTL_ADOPTED": record.text("ID"),
                "FEDCTL_OWNER": owner.text(),
            }
        self._write(what, record, marks)

    def _asking(self, record: Record, place: str) -> set[str]:
        return {name for name in record.names(place) if name.startswith(_ASKS)}

    def _shown(self, what: str, ref: str) -> Record:
        record = self._api.record(f"{what}.info", self._id(what, ref))
        if what == "vm" and record.number("STATE") == mapping.DONE:
            raise NotFound(f"there is no VM {ref} at {self.site}: scan it again")
        return record

    def _write(self, what: str, record: Record, attributes: Mapping[str, str]) -> None:
        wish = mapping.template(dict(attributes))
        self._api.call(f"{what}.update", record.number("ID"), wish, _MERGE)

    def _without(self, what: str, place: str, record: Record, prefix: str) -> None:
        """The template without what begins so; what others wrote in this moment is lost."""
        if any(name.startswith(prefix) for name in record.names(place)):
            rest = record.without(place, prefix)
            self._api.call(f"{what}.update", record.number("ID"), rest, _REPLACE)

    def _another(self, what: str, ref: str) -> Conflict:
        return Conflict(
            f"{what} {ref} at {self.site} carries another tag already: it belongs to an instance of"
            " fedctl, look which",
            reason=TAKEN,
        )


_IMAGE = ("image", "TEMPLATE")


def _described(vm: Record, images: Mapping[str, Record], shared: Collection[str]) -> Discovered:
    told = traits.traits(vm, fenced=False)
    return Discovered(
        seen=replace(mapping.instance_seen(vm, mapping.noted(vm, mapping.NOBODY)), epoch=0),
        firmware=mapping.firmware(vm),
        traits=replace(told, found=(*told.found, *traits.of_images(vm, images, shared))),
    )


def _asks(owner: OwnerTag) -> str:
    """The name of the attribute that announces an adoption."""
    return f"{_ASKS}{owner.artefact.hex.upper()}"
