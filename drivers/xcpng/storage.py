"""Disks of ours at an XCP-ng pool: staged images that we sent, and volumes for instances.

Both are VDIs, made with their owner tag in one call. An image is read back and hashed before it
counts: XAPI knows no digest. A volume of an image is an empty VDI that the image is copied into, so
that nothing carries a copy of another's tag.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from controlplane.domain.answer import Absent, Answer, Seen, Unknown
from controlplane.domain.disk import (
    DiskFormat,
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
    FedctlError,
    Integrity,
    Invalid,
    NotFound,
    Unavailable,
)
from controlplane.domain.ids import ArtefactId
from controlplane.domain.owner import OwnerTag
from drivers.contract import ImagePush, Volumes
from drivers.xcpng import mapping, writing
from drivers.xcpng.base import View, XcpBase
from drivers.xcpng.client import NULL, Record, code_of
from drivers.xcpng.mapping import Stamp

_IN_USE = {"VDI_IN_USE", "OTHER_OPERATION_IN_PROGRESS"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A VDI of ours that is an image or a volume."""

    record: Record
    stamp: Stamp

    @property
    def owner(self) -> OwnerTag:
        return self.stamp.owner

    @property
    def kind(self) -> str:
        return self.stamp.kind

    @property
    def ref(self) -> str:
        return self.record.ref

    @property
    def uuid(self) -> str:
        return self.record.uuid

    @property
    def done(self) -> bool:
        return mapping.DONE in self.record.map("other_config")

    def kept(self, key: str) -> str:
        return self.record.map("other_config").get(key, "")


class XcpStorage(XcpBase, ImagePush, Volumes):
    """Images and volumes, in one place because XAPI has one kind of object for both."""

    def _all_stored(self, view: View) -> Iterator[Stored]:
        """Snapshots and what was copied from ours carry our tags, too, and do not count."""
        for record in view.vdis.values():
            if record.flag("is_a_snapshot"):
                continue
            for stamp in mapping.stamps(record.map("other_config")).values():
                if stamp.kind in {mapping.IMAGE, mapping.VOLUME}:
                    yield Stored(record=record, stamp=stamp)

    def _under(self, view: View, artefact: ArtefactId) -> list[Stored]:
        """What lies under a tag, the best first: what a VM has, then what is whole."""
        found = [s for s in self._all_stored(view) if s.owner.artefact == artefact]
        return sorted(found, key=lambda s: (not view.users(s.ref), not s.done, s.uuid))

    def _for(self, view: View, owner: OwnerTag, kind: str) -> Stored | None:
        """What lies under the tag, if it is of that kind; superseded."""
        found = self._under(view, owner.artefact)
        if not found:
            return None
        stored = found[0]
        self._not_late(f"{kind} {stored.uuid}", owner, stored.owner)
        if stored.kind != kind:
            raise Conflict(
                f"site {self.site} has a {stored.kind} under the tag {owner.artefact}: use another"
            )
        return stored

    def _created(self, owner: OwnerTag, kind: str, wish: dict[str, object]) -> Stored:
        """The VDI under the tag after ours was made; what a lost call made besides goes."""
        self._api.text("VDI.create", wish)
        view = self._view()
        stored = self._for(view, owner, kind)
        if stored is None:
            raise Unavailable(f"site {self.site}: what was just made is not there: ask again")
        for other in self._under(view, owner.artefact)[1:]:
            self._api.call("VDI.destroy", other.ref)
        return stored

    # -- staged images -------------------------------------------------------------------------

    def push_image(
        self, owner: OwnerTag, name: str, source: ImageSource, data: Iterable[bytes]
    ) -> str:
        mapping.named(name)
        if source.format is not DiskFormat.RAW:
            raise Invalid(f"XCP-ng sites take raw images, not {source.format}: send it as raw")
        wish = json.dumps([source.sha256, source.length])
        found = self._for(self._view(), owner, mapping.IMAGE)
        if found is not None and found.kept(mapping.WISH) != wish:
            raise Conflict(
                f"site {self.site} holds another image under this tag: delete that first"
            )
        if found is None:
            config = {owner.text(): mapping.IMAGE, mapping.WISH: wish}
            size, sr = mapping.rounded(source.size), self._storage(None).ref
            record = mapping.vdi_record(name, "an image of fedctl", size, sr, config)
            found = self._created(owner, mapping.IMAGE, record)
        self._stamped("VDI", found.record, found.stamp, owner)
        if not found.done:
            parts = _measured(data, source.length)
            writing.fill(self._api, found.uuid, parts, f"fedctl image {found.uuid}")
            self._prove(found, source)
        return found.uuid

    def _prove(self, image: Stored, source: ImageSource) -> None:
        """Read back what the site has, and compare."""
        digest, left = hashlib.sha256(), source.length
        with self._api.task(f"fedctl proof {image.uuid}") as task:
            for part in self._api.get(image.uuid, task=task):
                digest.update(part[:left])
                left -= min(left, len(part))
            self._api.awaited(task, "export_raw_vdi")
        if left:
            raise Unavailable(f"site {self.site}: the image came back short: send it again")
        if digest.hexdigest() != source.sha256:
            raise Integrity(
                f"site {self.site} received other bytes than were described: send them again",
                detail=f"their SHA-256 is {digest.hexdigest()}",
            )
        self._added("VDI", image.ref, mapping.DONE, "yes")

    def find_image(self, owner: OwnerTag) -> Answer[ImageSeen]:
        try:
            found = self._under(self._view(), owner.artefact)
            if not found or found[0].kind != mapping.IMAGE:
                return Absent()
            image = found[0]
            return Seen(
                ImageSeen(
                    ref=image.uuid,
                    state=ImageState.READY if image.done else ImageState.WORKING,
                    epoch=image.owner.epoch,
                    length=_length(image),
                )
            )
        except (Busy, Unavailable) as e:
            return Unknown(why=str(e))

    def delete_image(self, owner: OwnerTag) -> None:
        view = self._view()
        found = self._for(view, owner, mapping.IMAGE)
        if found is not None:
            self._drop(view, found)

    def _drop(self, view: View, stored: Stored) -> None:
        """All under the same tag; Busy while one is being filled or read."""
        for each in self._under(view, stored.owner.artefact):
            try:
                self._api.call("VDI.destroy", each.ref)
            except NotFound:
                continue  # an earlier call's deletion was faster
            except Conflict as e:
                if code_of(e) not in _IN_USE:
                    raise
                raise Busy(f"{each.kind} {each.uuid} at {self.site} is in use: ask again") from e

    # -- volumes -------------------------------------------------------------------------------

    def create_volume(self, owner: OwnerTag, spec: VolumeSpec) -> str:
        """An empty one, or one that an image is copied into while `find_volume` looks."""
        mapping.named(spec.name)
        size = mapping.rounded(spec.size)
        if not 0 < size <= self.limits.disk_max:
            raise Invalid(
                f"volume {spec.name}: {spec.size} bytes cannot be: 1 to {self.limits.disk_max}"
            )
        wish = json.dumps([spec.name, size, spec.image or ""])
        view = self._view()
        found = self._for(view, owner, mapping.VOLUME)
        if found is None:
            config = {owner.text(): mapping.VOLUME, mapping.WISH: wish}
            if spec.image is None:
                config[mapping.DONE] = "yes"
            else:
                self._source(view, spec.image, size, spec.name)
            sr = self._storage(spec.storage).ref
            record = mapping.vdi_record(spec.name, "a volume of fedctl", size, sr, config)
            found = self._created(owner, mapping.VOLUME, record)
            if not found.done:
                self._fill(self._view(), found)
        if found.kept(mapping.WISH) != wish:
            raise Conflict(f"site {self.site} has another volume under this tag: {found.uuid}")
        self._stamped("VDI", found.record, found.stamp, owner)
        return found.uuid

    def _source(self, view: View, image: str, size: int, name: str) -> Record:
        found = next((vdi for vdi in view.vdis.values() if vdi.uuid == image), None)
        if found is None:
            raise NotFound(f"site {self.site}: there is no image {image}: stage it first")
        if (held := found.number("virtual_size")) > size:
            raise Invalid(
                f"the image holds {held} bytes and volume {name} is to have {size}: ask for a"
                " larger one"
            )
        return found

    def _fill(self, view: View, volume: Stored) -> None:
        """Begin to copy the image. One copy at a time: XAPI lets no second one write."""
        name, size, image = json.loads(volume.kept(mapping.WISH))
        source = self._source(view, image, size, name)
        task = self._api.text("Async.VDI.copy", source.ref, NULL, NULL, volume.ref)
        self._noted("VDI", volume.ref, mapping.TASK, task)

    def find_volume(self, owner: OwnerTag) -> Answer[VolumeSeen]:
        """Besides, the end of a copy is noted, and one that was lost is begun again."""
        try:
            view = self._view()
            found = self._under(view, owner.artefact)
            if not found or found[0].kind != mapping.VOLUME:
                return Absent()
            volume, why, done = found[0], "", found[0].done
            if not done:
                done, why = self._filled(view, volume)
            return Seen(_volume_seen(view, volume, done=done, why=why))
        except (Busy, Unavailable) as e:
            return Unknown(why=str(e))

    def _filled(self, view: View, volume: Stored) -> tuple[bool, str]:
        """Whether the copy ended well, and why not if it failed."""
        task = volume.kept(mapping.TASK)
        try:
            if not task:
                raise NotFound("no copy is known")  # noqa: TRY301  # as one that was forgotten
            seen = self._api.record("task", task)
        except NotFound:
            return False, self._refilled(view, volume)
        if (status := seen.text("status")) == "success":
            self._added("VDI", volume.ref, mapping.DONE, "yes")
            self._api.call("task.destroy", task)
            return True, ""
        error = seen.refs("error_info")
        if status != "pending" and error and error[0] in _IN_USE:
            return False, self._refilled(view, volume)
        return False, "" if status == "pending" else " ".join(error) or status

    def _refilled(self, view: View, volume: Stored) -> str:
        try:
            self._fill(view, volume)
        except (Busy, Unavailable):
            raise
        except FedctlError as e:
            return e.detail or str(e)
        return ""

    def delete_volume(self, owner: OwnerTag) -> None:
        view = self._view()
        found = self._for(view, owner, mapping.VOLUME)
        if found is None:
            return
        for vm in view.users(found.ref):
            raise Conflict(
                f"volume {found.uuid} at {self.site} is attached to VM {vm.uuid}: delete that first"
            )
        self._drop(view, found)


def _length(image: Stored) -> int:
    try:
        return int(json.loads(image.kept(mapping.WISH))[1])
    except (ValueError, TypeError, LookupError):
        return 0


def _volume_seen(view: View, volume: Stored, *, done: bool, why: str) -> VolumeSeen:
    users = view.users(volume.ref)
    state = VolumeState.FAILED if why else VolumeState.WORKING
    if done:
        state = VolumeState.IN_USE if users else VolumeState.READY
    return VolumeSeen(
        ref=volume.uuid,
        size=volume.record.number("virtual_size"),
        state=state,
        epoch=volume.owner.epoch,
        attached_to=users[0].uuid if users else None,
        why=why,
    )


def _measured(data: Iterable[bytes], length: int) -> Iterator[bytes]:
    """As many bytes as were described; Invalid when they are more or fewer."""
    left = length
    for part in data:
        left -= len(part)
        if left < 0:
            break
        yield part
    if left:
        raise Invalid(f"the image has not the {length} bytes that were described: describe it anew")
