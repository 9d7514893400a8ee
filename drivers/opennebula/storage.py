"""Images of ours in the datastores: staged ones that oned fetched, and volumes for instances.

Each has a name made of its owner tag, and oned lets a user have no name twice: that is what a
second create runs into. A volume is a persistent image, and oned lets no second VM have one.
"""

from dataclasses import dataclass

from controlplane.domain.answer import Absent, Answer, Seen, Unknown
from controlplane.domain.disk import (
    MIB,
    ImageSeen,
    ImageSource,
    ImageState,
    VolumeSeen,
    VolumeSpec,
    VolumeState,
)
from controlplane.domain.errors import (
    Busy,
    Conflict,
    Invalid,
    NotFound,
    Unavailable,
)
from controlplane.domain.owner import OwnerTag
from drivers.contract import ImagePull, Volumes
from drivers.opennebula import mapping
from drivers.opennebula.base import OneBase
from drivers.opennebula.client import Record

_IMAGE, _VOLUME = "image", "volume"
_MERGE = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """An image of ours. A clone that is not yet `marked` carries what it was cloned from."""

    id: int
    record: Record
    owner: OwnerTag
    kind: str
    marked: bool

    @property
    def state(self) -> int:
        return self.record.number("STATE")

    @property
    def users(self) -> list[int]:
        return [vm.number(".") for vm in self.record.all("VMS/ID")]

    def kept(self, name: str) -> str:
        return self.record.text(f"TEMPLATE/FEDCTL_{name}")

    @property
    def finished(self) -> bool:
        """Whether a volume is what was asked for: long enough, and for one VM at a time."""
        return self.marked and self.kept("DONE") == "yes"

    @property
    def error(self) -> str:
        return mapping.said(self.record.text("TEMPLATE/ERROR"))


class OneStorage(OneBase, ImagePull, Volumes):
    """Images and volumes, in one place because oned has one kind of object for both."""

    def _all_stored(self) -> list[Stored]:
        pool = self._api.record("imagepool.info", -2, -1, -1)
        found = (_stored(record) for record in pool.all("IMAGE"))
        return [each for each in found if each is not None]

    def _stored(self, owner: OwnerTag) -> Stored | None:
        return next((s for s in self._all_stored() if s.owner.artefact == owner.artefact), None)

    def _for(self, owner: OwnerTag, kind: str) -> Stored | None:
        """What lies under the tag, if it is of that kind; superseded."""
        found = self._stored(owner)
        if found is None:
            return None
        self._not_late(f"{kind} {found.id}", owner, found.owner)
        if found.kind != kind:
            raise Conflict(
                f"site {self.site} has a {found.kind} under the tag {owner.artefact}: use another"
            )
        return found

    def _allocated(self, attributes: dict[str, str], datastore: int) -> int | None:
        """The new image's id; None when one of that name came before."""
        try:
            wish = mapping.template(attributes)
            return self._api.number("image.allocate", wish, datastore)
        except Conflict as e:
            if "already taken" not in e.detail:
                raise
            return None

    def _stamp(self, stored: Stored, owner: OwnerTag) -> None:
        if owner.epoch > stored.owner.epoch:
            wish = mapping.template({"FEDCTL_OWNER": owner.text()})
            self._api.call("image.update", stored.id, wish, _MERGE)

    def _drop(self, stored: Stored) -> None:
        if stored.state == mapping.DELETE:
            return
        try:
            self._api.call("image.delete", stored.id, stored.state == mapping.LOCKED)
        except NotFound:
            return  # an earlier call's deletion was faster

    # -- staged images -------------------------------------------------------------------------

    def pull_image(self, owner: OwnerTag, name: str, source: ImageSource) -> str:
        """The site probes the size before it answers, then fetches, several times over."""
        mapping.named(name)
        found = self._for(owner, _IMAGE)
        if found is None:
            wish = {
                "NAME": mapping.key(owner),
                "DESCRIPTION": name,
                "TYPE": "OS",
                "PERSISTENT": "NO",
                "PATH": source.url,
                "FEDCTL_OWNER": owner.text(),
                "FEDCTL_KIND": _IMAGE,
                "FEDCTL_SHA256": source.sha256,
                "FEDCTL_LENGTH": str(source.length),
                "FEDCTL_SIZE": str(source.size),
            }
            made = self._allocated(wish, self._datastore(None).number("ID"))
            if made is not None:
                return str(made)
            found = self._for(owner, _IMAGE)
        if found is None:
            raise Busy(f"site {self.site}: image {owner.artefact} is on its way out: ask again")
        if found.state == mapping.DELETE:
            raise Busy(f"site {self.site}: image {found.id} is on its way out: ask again")
        if (found.kept("SHA256"), found.kept("SIZE")) != (source.sha256, str(source.size)):
            raise Conflict(
                f"site {self.site} holds another image under this tag: delete that first"
            )
        self._stamp(found, owner)
        return str(found.id)

    def find_image(self, owner: OwnerTag) -> Answer[ImageSeen]:
        """The site checks no SHA-256: what it fetched is hashed there before it is ready."""
        try:
            found = self._stored(owner)
            if found is None or found.kind != _IMAGE:
                return Absent()
            return Seen(self._image_seen(found))
        except (Busy, Unavailable) as e:
            return Unknown(why=str(e))

    def _image_seen(self, found: Stored) -> ImageSeen:
        state, why, damaged = ImageState.WORKING, "", False
        if found.state == mapping.ERROR:
            state, why = ImageState.FAILED, found.error or "oned could not fetch it"
        elif found.state in {mapping.READY, mapping.USED, mapping.CLONE}:
            proof = found.kept("PROOF") or self._proven(found)
            if proof == found.kept("SHA256"):
                state = ImageState.READY
            elif proof:
                state, damaged = ImageState.FAILED, True
                why = f"the site got other bytes: their SHA-256 is {proof}"
        return ImageSeen(
            ref=str(found.id),
            state=state,
            epoch=found.owner.epoch,
            length=found.record.number("TEMPLATE/FEDCTL_LENGTH", 0),
            why=why,
            damaged=damaged,
        )

    def _proven(self, found: Stored) -> str:
        """Take the next step towards the digest of what was fetched; empty while there is none."""
        name = found.owner.artefact.hex
        digest = self._shell.digest(found.record.text("SOURCE"), name)
        if digest is None:
            return ""
        wish = mapping.template({"FEDCTL_PROOF": digest})
        self._api.call("image.update", found.id, wish, _MERGE)
        self._shell.forget_digest(name)
        return digest

    def delete_image(self, owner: OwnerTag) -> None:
        found = self._for(owner, _IMAGE)
        if found is None:
            return
        if found.state == mapping.CLONE:
            raise Busy(f"image {found.id} at {self.site} is being copied: ask again")
        self._drop(found)

    # -- volumes -------------------------------------------------------------------------------

    def create_volume(self, owner: OwnerTag, spec: VolumeSpec) -> str:
        """An empty one, or of an image a clone, which `find_volume` finishes once it is there."""
        mapping.named(spec.name)
        size = mapping.rounded(spec.size)
        if not 0 < size <= self.limits.disk_max:
            raise Invalid(
                f"volume {spec.name}: {spec.size} bytes cannot be: 1 to {self.limits.disk_max}"
            )
        found = self._for(owner, _VOLUME)
        if found is None:
            made = self._made_volume(owner, spec, size)
            if made is not None:
                return str(made)
            found = self._for(owner, _VOLUME)
        if found is None or found.state == mapping.DELETE:
            raise Busy(f"site {self.site}: volume {spec.name} is on its way out: ask again")
        if not found.marked:
            self._mark_clone(found.id, owner, spec, size)
            return str(found.id)
        wish = (spec.name, str(size), spec.image or "")
        kept = found.record.text("TEMPLATE/DESCRIPTION"), found.kept("SIZE"), found.kept("FROM")
        if kept != wish:
            raise Conflict(f"site {self.site} has another volume under this tag: {found.id}")
        self._stamp(found, owner)
        return str(found.id)

    def _made_volume(self, owner: OwnerTag, spec: VolumeSpec, size: int) -> int | None:
        """The new volume's id; None when one of that name came before."""
        datastore = self._datastore(spec.storage).number("ID")
        if spec.image is None:
            wish = {
                "NAME": mapping.key(owner),
                "TYPE": "DATABLOCK",
                "FORMAT": "qcow2",  # oned keeps increments of no other
                "SIZE": str(size // MIB),
                "PERSISTENT": "YES",
                **_volume_marks(owner, spec, size, done=True),
            }
            return self._allocated(wish, datastore)
        source = self._id("image", spec.image)
        image = self._api.record("image.info", source)
        held = image.number("TEMPLATE/FEDCTL_SIZE", image.number("SIZE") * MIB)
        if held > size:
            raise Invalid(
                f"the image holds {held} bytes and volume {spec.name} is to have {size}: ask for a"
                " larger one"
            )
        try:
            made = self._api.number("image.clone", source, mapping.key(owner), datastore)
        except Conflict as e:
            if "already taken" not in e.detail:
                raise
            return None
        self._mark_clone(made, owner, spec, size)
        return made

    def _mark_clone(self, number: int, owner: OwnerTag, spec: VolumeSpec, size: int) -> None:
        """The site clones attributes too: until a clone is marked its name alone is right."""
        marks = mapping.template(_volume_marks(owner, spec, size, done=False))
        self._api.call("image.update", number, marks, _MERGE)

    def find_volume(self, owner: OwnerTag) -> Answer[VolumeSeen]:
        """Besides, a clone that is there is made as long as wished, and persistent."""
        try:
            found = self._stored(owner)
            if found is None or found.kind != _VOLUME:
                return Absent()
            if found.marked and not found.finished and found.state == mapping.READY:
                self._finish(found)
                found = self._stored(owner) or found
            return Seen(volume_seen(found))
        except (Busy, Unavailable) as e:
            return Unknown(why=str(e))

    def _finish(self, found: Stored) -> None:
        """Each step may be repeated; the mark that it is done comes last."""
        form = found.record.text("FORMAT", "raw")
        self._shell.lengthen(found.record.text("SOURCE"), form, volume_size(found))
        self._api.call("image.persistent", found.id, True)  # noqa: FBT003  # the wire's shape
        done = mapping.template({"FEDCTL_DONE": "yes"})
        self._api.call("image.update", found.id, done, _MERGE)

    def delete_volume(self, owner: OwnerTag) -> None:
        found = self._for(owner, _VOLUME)
        if found is None:
            return
        for number in found.users:
            if self._api.record("vm.info", number).number("STATE") != mapping.DONE:
                raise Conflict(
                    f"volume {found.id} at {self.site} is attached to VM {number}: delete that"
                    " first"
                )
        if found.users:
            raise Busy(f"volume {found.id} at {self.site} is being let go: ask again")
        self._drop(found)


def volume_seen(found: Stored) -> VolumeSeen:
    state = VolumeState.WORKING
    if found.state == mapping.ERROR:
        state = VolumeState.FAILED
    elif found.finished and found.users:
        state = VolumeState.IN_USE
    elif found.finished and found.state == mapping.READY:
        state = VolumeState.READY
    return VolumeSeen(
        ref=str(found.id),
        size=volume_size(found),
        state=state,
        epoch=found.owner.epoch,
        attached_to=str(found.users[0]) if found.users else None,
        why=found.error,
    )


def volume_size(found: Stored) -> int:
    """The site's own size of a clone stays its image's; what it was lengthened to is noted."""
    return found.record.number("TEMPLATE/FEDCTL_SIZE", found.record.number("SIZE") * MIB)


def _volume_marks(owner: OwnerTag, spec: VolumeSpec, size: int, *, done: bool) -> dict[str, str]:
    return {
        "FEDCTL_DONE": "yes" if done else "no",
        "DESCRIPTION": spec.name,
        "FEDCTL_OWNER": owner.text(),
        "FEDCTL_KIND": _VOLUME,
        "FEDCTL_SIZE": str(size),
        "FEDCTL_FROM": spec.image or "",
        "FEDCTL_SHA256": "",
        "FEDCTL_PROOF": "",
    }


def _stored(record: Record) -> Stored | None:
    """An image of ours; what its name says counts, until a clone is marked as what it is."""
    named = mapping.owner_of(f"{record.text('NAME')}.1")
    inside = mapping.owner_of(record.text("TEMPLATE/FEDCTL_OWNER"))
    if record.text("TEMPLATE/FEDCTL_ADOPTED") == record.text("ID"):  # no clone of one
        named = inside
    if named is None:
        return None
    marked = inside is not None and inside.artefact == named.artefact
    return Stored(
        id=record.number("ID"),
        record=record,
        owner=inside if inside is not None and marked else named,
        kind=record.text("TEMPLATE/FEDCTL_KIND", _VOLUME) if marked else _VOLUME,
        marked=marked,
    )
