"""What block storage does after it said yes: real files made, copied, grown and removed."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from drivers.simulators.openstack import qcow2
from drivers.simulators.openstack.cloud import GIB, Cloud
from drivers.simulators.openstack.image_store import ImageStore
from drivers.simulators.openstack.wire import Refusal
from drivers.simulators.openstack.world import Record, stamp


class Volumes:
    """The files behind volumes and snapshots, and the work on them that takes time."""

    def __init__(self, cloud: Cloud, images: ImageStore) -> None:
        self._cloud = cloud
        self._world = cloud.world
        self._images = images
        self.freeze: Callable[[str], AbstractContextManager[None]] = lambda _: nullcontext()
        act = self._world.action
        act("volume.create", self._start_creating)
        act("volume.fill", self._fill)
        act("volume.delete", self._delete)
        act("volume.extend", self._extend)
        act("volume.upload", self._upload)
        act("snapshot.create", self._snapshot)
        act("snapshot.delete", self._delete_snapshot)

    def path(self, ident: str) -> Path:
        return self._world.folder_of("volumes") / ident

    def snapshot_path(self, ident: str) -> Path:
        return self._world.folder_of("snapshots") / ident

    def touch(self, ident: str, **fields: Any) -> None:
        self._world.update("volume", ident, updated_at=stamp(micro=True), **fields)

    def _start_creating(self, ident: str) -> None:
        record = self._world.get("volume", ident)
        if record is None:
            return
        if record["source_image"]:
            self.touch(ident, status="downloading")
            self._cloud.step("volume.fill", ident=ident)
        else:
            self._fill(ident)

    def _fill(self, ident: str) -> None:
        record = self._world.get("volume", ident)
        if record is None:
            return
        size = record["size"] * GIB
        why = self._cloud.volume_faults.pop(0) if self._cloud.volume_faults else ""
        if self._cloud.faults.disk_full:
            why = "No weighed backends available"
        if not why:
            try:
                why = self._content(record, size)
            except FileNotFoundError:
                why = "The source is gone"
        if why:
            self.path(ident).unlink(missing_ok=True)
            self.touch(ident, status="error", why=why)
            return
        boots = {"bootable": "true"} if record["source_image"] else {}
        self.touch(ident, status="available", host="ctl@nfs1#nfs1", **boots)

    def _content(self, record: Record, size: int) -> str:
        """Give a new volume its bytes; answers what went wrong."""
        target = self.path(record["id"])
        source: Path | None = None
        if record["source_image"]:
            image = self._world.get("image", record["source_image"])
            if image is None or image["status"] != "active":
                return f"Image {record['source_image']} is unacceptable"
            source = self._images.path(image["id"])
            if image["disk_format"] == "qcow2":
                try:
                    length = qcow2.to_raw(source, target, size, self._cloud.stopped)
                except ValueError as e:
                    return f"Image {image['id']} is unacceptable: {e}"
                return "" if length <= size else self._too_large(image["id"], length, size)
            if source.stat().st_size > size:
                return self._too_large(image["id"], source.stat().st_size, size)
        elif record["snapshot_id"]:
            source = self.snapshot_path(record["snapshot_id"])
        elif record["source_volid"]:
            source = self.path(record["source_volid"])
        if source is None:
            with target.open("wb") as file:
                file.truncate(size)
        elif not source.exists():
            return "The source is gone"
        else:
            qcow2.copy_sparse(source, target, size, self._cloud.stopped)
        return ""

    @staticmethod
    def _too_large(ident: str, length: int, size: int) -> str:
        return (
            f"Image {ident} is unacceptable: Image virtual size is {length}"
            f" and doesn't fit in a volume of size {size}."
        )

    def _delete(self, ident: str) -> None:
        self.path(ident).unlink(missing_ok=True)
        self._world.drop("volume", ident)

    def _extend(self, ident: str, size: int, back: str) -> None:
        record = self._world.get("volume", ident)
        if record is None:
            return
        if self._cloud.faults.disk_full:
            self.touch(ident, status="error_extending")
            return
        with self.path(ident).open("rb+") as file:
            file.truncate(size * GIB)
        self.touch(ident, status=back, size=size)

    def _upload(self, ident: str, image: str, back: str) -> None:
        record = self._world.get("image", image)
        if record is None:
            self.touch(ident, status=back)
            return
        self._world.update("image", image, status="saving")
        if self._cloud.volume_faults or self._cloud.faults.disk_full:
            if self._cloud.volume_faults:
                self._cloud.volume_faults.pop(0)
            self._world.update("image", image, status="queued")
            self.touch(ident, status=back)
            return
        try:
            with self.freeze(ident):
                self._write_image(record, self.path(ident), self._images.path(image))
            self._images.activate(record)
        except (Refusal, FileNotFoundError):  # glance will not have it, or it was deleted
            self._world.update("image", image, status="queued")
        if self._world.get("image", image) is None:
            self._images.path(image).unlink(missing_ok=True)
        self.touch(ident, status=back)

    def _write_image(self, record: Record, source: Path, target: Path) -> None:
        if record["disk_format"] == "qcow2":
            qcow2.from_raw(source, target, self._cloud.stopped)
        else:
            qcow2.copy_sparse(source, target, source.stat().st_size, self._cloud.stopped)

    def _snapshot(self, ident: str) -> None:
        record = self._world.get("snapshot", ident)
        if record is None:
            return
        volume = self._world.get("volume", record["volume_id"])
        if volume is None or self._cloud.faults.disk_full or self._cloud.volume_faults:
            if self._cloud.volume_faults:
                self._cloud.volume_faults.pop(0)
            self._world.update("snapshot", ident, status="error", updated_at=stamp(micro=True))
            return
        source = self.path(volume["id"])
        target = self.snapshot_path(ident)
        with self.freeze(volume["id"]):
            qcow2.copy_sparse(source, target, source.stat().st_size, self._cloud.stopped)
        self._world.update(
            "snapshot", ident, status="available", progress="100%", updated_at=stamp(micro=True)
        )

    def _delete_snapshot(self, ident: str) -> None:
        self.snapshot_path(ident).unlink(missing_ok=True)
        self._world.drop("snapshot", ident)
