"""Images on their way in: pulled by the node from a URL of ours, or pushed as an upload.

An image is a file of the storage's import content, named after its owner, its digest and the
disk's length. Beside it lies a stamp: an empty import file named after the owner alone. It is
there before the first byte is asked for, so that a failed download can be told from none, and
further stamps raise the epoch, as nothing can be renamed through the API.
"""

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from controlplane.domain.answer import Absent, Answer, Seen, Unknown
from controlplane.domain.disk import ImageSeen, ImageSource, ImageState
from controlplane.domain.errors import (
    Busy,
    Conflict,
    FedctlError,
    Integrity,
    Invalid,
    NotFound,
    Unavailable,
    superseded,
)
from controlplane.domain.owner import OwnerTag
from drivers.contract import ImagePull, ImagePush
from drivers.proxmox import mapping, marks
from drivers.proxmox.base import ProxmoxBase
from drivers.proxmox.marks import ImageName

_TASKS = 20
_MISMATCH = "checksum mismatch"


@dataclass(slots=True, kw_only=True)
class _Staged:
    """All files of one artefact on the import storage."""

    stamps: dict[OwnerTag, str] = field(default_factory=dict)
    images: dict[ImageName, tuple[str, int]] = field(default_factory=dict)  # volid, file length

    @property
    def owner(self) -> OwnerTag | None:
        owners = [*self.stamps, *(image.owner for image in self.images)]
        return max(owners, key=lambda owner: owner.epoch, default=None)

    @property
    def volids(self) -> list[str]:
        return [volid for volid, _ in self.images.values()] + list(self.stamps.values())


class ProxmoxImages(ProxmoxBase, ImagePull, ImagePush):
    def pull_image(self, owner: OwnerTag, name: str, source: ImageSource) -> str:
        storage, target, done = self._begun(owner, name, source)
        if done is not None:
            return done
        verify = self._options.get("pull_verify", "1")
        parameters: dict[str, Any] = {
            "checksum-algorithm": "sha256",
            "verify-certificates": int(verify == "1"),
        }
        self._api.post(
            f"nodes/{self._node()}/storage/{storage}/download-url",
            content="import",
            filename=target.text(),
            url=source.url,
            checksum=source.sha256,
            **parameters,
        )
        return f"{storage}:import/{target.text()}"

    def push_image(
        self, owner: OwnerTag, name: str, source: ImageSource, data: Iterable[bytes]
    ) -> str:
        storage, target, done = self._begun(owner, name, source)
        if done is not None:
            return done
        # The order of the fields is part of the protocol; proxmoxer keeps it, the file comes last.
        parameters: dict[str, Any] = {"content": "import", "checksum-algorithm": "sha256"}
        parameters |= {"checksum": source.sha256}
        parameters |= {"filename": _Upload(target.text(), source.length, iter(data))}
        node = self._node()
        upid = self._api.post(f"nodes/{node}/storage/{storage}/upload", **parameters)
        task = self._api.get(f"nodes/{node}/tasks/{upid}/status")
        said = str(task.get("exitstatus", ""))
        if _MISMATCH in said:
            raise Integrity(
                f"site {self.site} received other bytes than were described: send them again",
                detail=said,
            )
        return f"{storage}:import/{target.text()}"

    def find_image(self, owner: OwnerTag) -> Answer[ImageSeen]:
        try:
            storage = self._images()
            staged = self._staged(storage, owner)
            newest = staged.owner
            if newest is None:
                return Absent()
            return _ready(staged, newest) or self._under_way(storage, newest)
        except (Busy, Unavailable) as e:
            return Unknown(why=str(e))

    def delete_image(self, owner: OwnerTag) -> None:
        storage = self._images()
        staged = self._staged(storage, owner)
        if staged.owner is None:
            return
        self._not_late(owner, staged.owner)
        node = self._node()
        for task in self._downloads(node, owner):
            if "endtime" not in task:
                self._api.delete(f"nodes/{node}/tasks/{task['upid']}")
        for volid in staged.volids:
            try:
                self._api.delete(f"nodes/{node}/storage/{storage}/content/{volid}")
            except NotFound:
                continue  # an earlier call's task was faster

    # -- inside --------------------------------------------------------------------------------

    def _begun(
        self, owner: OwnerTag, name: str, source: ImageSource
    ) -> tuple[str, ImageName, str | None]:
        """Where to and under which name, with a stamp made; the ref when nothing is left to do."""
        mapping.named(name)
        storage, node = self._images(), self._node()
        staged = self._staged(storage, owner)
        target = ImageName(
            owner=owner, digest=source.sha256[:16], size=source.size, format=source.format
        )
        if staged.owner is not None:
            self._not_late(owner, staged.owner)
        wanted = [image for image in staged.images if image.same_bytes(target)]
        running = [
            image
            for task in self._downloads(node, owner)
            if "endtime" not in task and (image := ImageName.parse(task["id"])) is not None
        ]
        for other in [*staged.images, *running]:
            if not other.same_bytes(target):
                raise Conflict(
                    f"site {self.site} holds another image under this tag: delete that first"
                )
        if staged.owner is None or staged.owner.epoch < owner.epoch or not staged.stamps:
            self._stamp(storage, owner)
        if wanted:
            return storage, target, staged.images[wanted[0]][0]
        if running:
            return storage, target, f"{storage}:import/{running[0].text()}"
        return storage, target, None

    def _stamp(self, storage: str, owner: OwnerTag) -> None:
        """At once by root's shell; without it by an upload, which shows a moment later."""
        name = f"{owner.text()}.raw"
        if self._shell.known:
            self._shell.write(str(self._shell.import_folder(storage) / name), "\0" * 512)
            return
        empty = _Upload(name, 512, iter([bytes(512)]))
        parameters: dict[str, Any] = {"content": "import", "filename": empty}
        self._api.post(f"nodes/{self._node()}/storage/{storage}/upload", **parameters)

    def _staged(self, storage: str, owner: OwnerTag) -> _Staged:
        return self._all_staged(storage).get(owner.artefact.hex, _Staged())

    def _all_staged(self, storage: str) -> dict[str, _Staged]:
        """Everything of ours on the import storage, by artefact."""
        found: dict[str, _Staged] = {}
        path = f"nodes/{self._node()}/storage/{storage}/content"
        for volume in self._api.get(path, content="import"):
            name = str(volume["volid"]).rpartition("/")[2]
            if image := ImageName.parse(name):
                place = found.setdefault(image.owner.artefact.hex, _Staged())
                place.images[image] = (volume["volid"], int(volume["size"]))
            elif stamp := marks.stamp_in(name):
                found.setdefault(stamp.artefact.hex, _Staged()).stamps[stamp] = volume["volid"]
        return found

    def _downloads(self, node: str, owner: OwnerTag) -> list[dict[str, Any]]:
        """The node's download tasks for this artefact, newest first."""
        tasks = self._api.get(f"nodes/{node}/tasks", source="all", typefilter="download")
        prefix = f"fedctl.{owner.artefact.hex}."
        return [task for task in tasks if str(task["id"]).startswith(prefix)]

    def _under_way(self, storage: str, newest: OwnerTag) -> Answer[ImageSeen]:
        """What the tasks tell of an image whose stamp is there and whose file is not."""
        node = self._node()
        told = [
            (ImageName.parse(str(task["id"])), task) for task in self._downloads(node, newest)
        ] or self._uploads(node, newest)
        for name, task in told[:1]:
            ref = f"{storage}:import/{name.text() if name else ''}"
            said = str(task.get("status", ""))
            if "endtime" not in task:
                working = ImageSeen(ref=ref, state=ImageState.WORKING, epoch=newest.epoch)
                return Seen(working)
            if said != "OK" and not said.startswith("WARNINGS"):
                return Seen(
                    ImageSeen(
                        ref=ref,
                        state=ImageState.FAILED,
                        epoch=newest.epoch,
                        why=said,
                        damaged=_MISMATCH in said,
                    )
                )
            # It may have ended after its file was looked for.
            return _ready(self._staged(storage, newest), newest) or Absent()
        return Absent()

    def _uploads(self, node: str, owner: OwnerTag) -> list[tuple[ImageName | None, dict[str, Any]]]:
        """Upload tasks for this artefact; only their logs tell which file they are about."""
        prefix = f"fedctl.{owner.artefact.hex}."
        found: list[tuple[ImageName | None, dict[str, Any]]] = []
        tasks = self._api.get(
            f"nodes/{node}/tasks", source="all", typefilter="imgcopy", limit=_TASKS
        )
        for task in tasks:
            for line in self._api.get(f"nodes/{node}/tasks/{task['upid']}/log"):
                name = str(line["t"]).rpartition("/")[2]
                if str(line["t"]).startswith("target file: ") and name.startswith(prefix):
                    found.append((ImageName.parse(name), task))
        return [(name, task) for name, task in found if name is not None]

    def _not_late(self, owner: OwnerTag, found: OwnerTag) -> None:
        if owner.epoch < found.epoch:
            raise superseded(
                f"image {owner.artefact} at {self.site}",
                presented=owner.epoch,
                found=found.epoch,
            )


def _ready(staged: _Staged, newest: OwnerTag) -> Seen[ImageSeen] | None:
    for volid, length in staged.images.values():
        return Seen(ImageSeen(ref=volid, state=ImageState.READY, epoch=newest.epoch, length=length))
    return None


class _Upload(io.RawIOBase):
    """Bytes that arrive piece by piece, as a file whose name and length are known."""

    def __init__(self, name: str, length: int, data: Iterator[bytes]) -> None:
        self.name, self._length = name, length
        self._data, self._rest, self._at = data, b"", 0
        self._shown = 0  # what `tell` says after a `seek` that only asks for the length

    def __len__(self) -> int:
        return self._length

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._shown

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._shown = self._length if whence == io.SEEK_END else offset
        return self._shown

    def read(self, size: int | None = -1) -> bytes:
        wanted = self._length - self._at if size is None or size < 0 else size
        while len(self._rest) < wanted and (part := next(self._data, b"")):
            self._rest += part
        out, self._rest = self._rest[:wanted], self._rest[wanted:]
        self._at += len(out)
        self._shown = self._at
        if len(out) < wanted and self._at < self._length:
            raise _short(self._at, self._length)
        return out


def _short(got: int, length: int) -> FedctlError:
    return Invalid(f"the image ended after {got} of {length} bytes: describe it anew")
