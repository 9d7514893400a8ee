"""Images at an OVHcloud site: there is no store for them, so that each lies on a server's disk.

A server is claimed for the image and fetches it: by an installation (BYOI) into memory and onto the
disk, or, where that has not the room, in rescue straight onto the disk. Either way it ends up in
rescue without having booted the image, and becomes the instance that is made of the image.
"""

from typing import Any

from controlplane.domain.answer import Absent, Answer, Seen, Unknown
from controlplane.domain.disk import DiskFormat, ImageSeen, ImageSource, ImageState
from controlplane.domain.errors import (
    Busy,
    Conflict,
    Exhausted,
    NotFound,
    Unavailable,
    Unsupported,
)
from controlplane.domain.owner import OwnerTag
from drivers.contract import ImagePull
from drivers.ovhcloud import mapping
from drivers.ovhcloud.base import Rented, is_of
from drivers.ovhcloud.client import translated
from drivers.ovhcloud.nics import OvhNics

_LOADER = "\\EFI\\BOOT\\BOOTX64.EFI"
_DAMAGED = ("checksum", "check sum")


class OvhImages(OvhNics, ImagePull):
    def pull_image(self, owner: OwnerTag, name: str, source: ImageSource) -> str:
        mapping.named(name)
        rented, kept = self._with_image(owner), mapping.image_sum(source)
        if rented is not None:
            self._not_late(f"image {owner.artefact}", owner, _image_of(rented))
            if rented.notes.get(mapping.LEAVING):
                raise Busy(f"image {owner.artefact} at {self.site} is being wiped: ask again")
            if rented.notes.get(mapping.SUM) not in {"", kept}:
                raise Conflict(
                    f"site {self.site} holds another image under this tag: delete that first"
                )
            if owner.epoch > _image_of(rented).epoch:
                rented = self._tag(rented, {mapping.IMAGE: owner.text()})
        else:
            rented = self._claimed(self._place_for(owner, source), mapping.IMAGE, owner)
        if rented.notes.boot is None:
            rented = self._tag(rented, {mapping.SUM: kept})
            self._taken_in(rented, source)
        return f"{rented.name}/{owner.artefact.hex}"

    def _place_for(self, owner: OwnerTag, source: ImageSource) -> Rented:
        """A free server that can take the image in; Exhausted, Unsupported."""
        name = self.reserve(owner)
        place = None if name is None else self._rented(name)
        if place is None or not place.notes.free:
            raise Exhausted(
                f"site {self.site}: no server of the pool is free: release one, or rent another"
            )
        with translated(f"site {self.site}: hardware of {place.name}"):
            room = mapping.room(self._hardware(place))
        if source.size > room:
            raise Unsupported(
                f"site {self.site}: the image is a disk of {source.size} bytes, and a server's has"
                f" {room}: choose another site"
            )
        if source.format is not DiskFormat.RAW and not self._by_memory(place, source):
            raise Unsupported(
                f"site {self.site}: an image of {source.length} bytes does not fit into a server's"
                " memory, and rescue writes raw ones alone: offer it as raw",
                reason="pull-refused",
            )
        return place

    def _by_memory(self, rented: Rented, source: ImageSource) -> bool:
        with translated(f"site {self.site}: hardware of {rented.name}"):
            memory = mapping.amount(self._hardware(rented)["memorySize"])
        return mapping.fits(source.length, memory)

    def _taken_in(self, rented: Rented, source: ImageSource) -> None:
        if self._by_memory(rented, source):
            self._install(rented, source)
        else:
            self._booted(self._tag(rented, {mapping.FETCH: source.url}), mapping.RESCUE)

    def _install(self, rented: Rented, source: ImageSource) -> None:
        """Ask for an installation after which the server boots rescue and not the image."""
        self._idle(rented)
        self._set_boot(rented, mapping.RESCUE)
        self._rescues.forget(rented.name)
        wish = mapping.reinstall(source, loader=self._loader(rented))
        self._noted(rented, mapping.INSTALL, self._api.post(f"{rented.path}/reinstall", wish))

    def _loader(self, rented: Rented) -> str | None:
        """What a server that boots by UEFI starts from the disk; None where it boots by BIOS."""
        hardware: dict[str, Any] = self._hardware(rented)
        if hardware.get("bootMode") == "legacy":
            return None
        return self._options.get("efi_loader", _LOADER)

    # -- looking -------------------------------------------------------------------------------

    def _with_image(self, owner: OwnerTag) -> Rented | None:
        return next((each for each in self._pool() if is_of(each.notes.image, owner)), None)

    def _image_place(self, ref: str) -> Rented:
        """The server that an image's ref names; NotFound when it has it no more."""
        name, _, artefact = ref.rpartition("/")
        rented = self._rented(name) if name else None
        image = None if rented is None else rented.notes.image
        if rented is None or image is None or image.artefact.hex != artefact:
            raise NotFound(f"site {self.site}: there is no image {ref!r}: stage it again")
        return rented

    def find_image(self, owner: OwnerTag) -> Answer[ImageSeen]:
        """Besides, a server that is to fetch in rescue begins to, once it is there."""
        try:
            rented = self._with_image(owner)
            if rented is None:
                return Absent()
            if rented.notes.get(mapping.LEAVING) and not rented.notes.get(mapping.OWNER):
                rented = self._leave(rented)
                if rented.notes.nobodys:
                    return Absent()
            return Seen(self._image_seen(rented))
        except (Busy, Unavailable) as e:
            return Unknown(why=str(e))

    def _image_seen(self, rented: Rented) -> ImageSeen:
        state, why, damaged = ImageState.WORKING, "", False
        boot = rented.notes.boot
        task = None if boot is None else self._task_of(rented, boot.task)
        if rented.notes.get(mapping.OWNER):
            state = ImageState.READY  # an instance was made of it
        elif boot is not None and task is not None and mapping.failed(task, since=boot):
            state, why = ImageState.FAILED, mapping.said(str(task.get("comment") or ""))
            damaged = any(each in why.lower() for each in _DAMAGED)
        elif (found := self._in_rescue(rented)) is not None:
            state = ImageState.READY
            if rented.notes.get(mapping.FETCH):
                wished = rented.notes.get(mapping.SUM).partition(".")[0]
                proof = found[1].fetched(
                    f"fetch-{_image_of(rented).artefact.hex}",
                    rented.notes.get(mapping.FETCH),
                    found[2],
                )
                if proof is None:
                    state = ImageState.WORKING
                elif proof != wished:
                    state, damaged = ImageState.FAILED, True
                    why = f"the server got other bytes: their SHA-256 is {proof}"
        length = rented.notes.get(mapping.SUM).split(".")
        return ImageSeen(
            ref=f"{rented.name}/{_image_of(rented).artefact.hex}",
            state=state,
            epoch=_image_of(rented).epoch,
            length=int(length[1]) if len(length) > 1 and length[1].isdecimal() else None,
            why=why,
            damaged=damaged,
        )

    def delete_image(self, owner: OwnerTag) -> None:
        """Forget it where an instance has it by now; else the server is wiped and given back."""
        rented = self._with_image(owner)
        if rented is None:
            return
        self._not_late(f"image {owner.artefact}", owner, _image_of(rented))
        if rented.notes.get(mapping.OWNER):
            self._untag(rented, [mapping.SUM, mapping.FETCH, mapping.IMAGE])
        elif not rented.notes.get(mapping.LEAVING):
            self._leave(self._tag(rented, {mapping.LEAVING: "yes"}))

    # -- giving a server back ------------------------------------------------------------------

    def _leave(self, rented: Rented) -> Rented:
        """The next step of a server on its way out: rescue, out of its networks, wiped, free."""
        if self._under_way(rented):
            return rented
        boot = rented.notes.boot
        task = None if boot is None else self._task_of(rented, boot.task)
        failed = boot is not None and task is not None and mapping.failed(task, since=boot)
        if boot is None or boot.mode == mapping.HARDDISK or failed:
            return self._booted(rented, mapping.RESCUE)
        found = self._in_rescue(rented)
        if found is None:
            return rented
        rented, shell, block = found
        rented = self._wished(rented, isolated=True)
        now = self._now(rented)
        if self._unsettled(rented, now):
            self._settle(rented, now)
            return rented
        for export in shell.served():
            shell.end(export)
        if not shell.wiped(block):
            return rented
        return self._untag(rented, mapping.last_first(rented.notes.tags))


def _image_of(rented: Rented) -> OwnerTag:
    image = rented.notes.image
    if image is None:
        raise NotFound(f"server {rented.name} has no image of ours: stage it again")
    return image
