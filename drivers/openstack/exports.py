"""A disk's way out: snapshot, volume of it, image of that, and the image's bytes by ranges.

Cinder uploads only what is not in use, so the disk of an instance is snapshotted first; a free
volume is cloned. The image is a qcow2, which leaves the zeros out. What the copy is for stands in
the temporary volume's image metadata, because Cinder hands these on to the image in the moment it
makes it.
"""

from controlplane.domain.answer import Absent, Answer, Seen
from controlplane.domain.disk import GIB, BlockReader, DiskSource, ExportSeen, ExportStage, Mark
from controlplane.domain.errors import Busy, Conflict, Integrity, NotFound, Unavailable
from controlplane.domain.ids import ArtefactId
from controlplane.domain.instance import Power
from controlplane.domain.owner import OwnerTag
from controlplane.domain.site import SiteAccess
from drivers.contract import DiskExport
from drivers.openstack import mapping
from drivers.openstack.images import Images
from drivers.openstack.mapping import Payload
from drivers.openstack.reader import ImageBytes, ProvenReader
from drivers.openstack.volumes import Disks


class Exports(Disks, Images, DiskExport):
    def __init__(self, access: SiteAccess) -> None:
        super().__init__(access)
        self._readers: dict[ArtefactId, list[ProvenReader]] = {}

    # What there is of an export.

    def _copy(self, owner: OwnerTag) -> Payload | None:
        """The temporary volume."""
        return next(iter(self._by("volumes", mapping.EXPORT_ID, owner.artefact)), None)

    def _frozen(self, owner: OwnerTag) -> Payload | None:
        """The temporary snapshot."""
        return next(iter(self._by("snapshots", mapping.EXPORT_ID, owner.artefact)), None)

    def _exported(self, owner: OwnerTag) -> Payload | None:
        """The image."""
        name = mapping.mark(owner.artefact)
        query = {"name": name}
        found = self._client.listing("image", "/images", "images", what=name, params=query)
        return next((i for i in found if self._belongs(i, owner)), None)

    @staticmethod
    def _belongs(image: Payload, owner: OwnerTag) -> bool:
        known = mapping.image_owner(image)
        return known is not None and known.artefact == owner.artefact

    # Preparing.

    def prepare_export(
        self, owner: OwnerTag, source: DiskSource, since: Mark | None = None
    ) -> ExportSeen:
        del since  # Cinder tells projects nothing of changed blocks: always everything
        image, copy, frozen = self._exported(owner), self._copy(owner), self._frozen(owner)
        told = _told(source)
        for part, known in (
            (image, image and image.get(mapping.IMAGE_SOURCE)),
            (copy, copy and copy["metadata"].get(mapping.SOURCE)),
            (frozen, frozen and frozen["metadata"].get(mapping.SOURCE)),
        ):
            if part is not None and known != told:
                raise self._other_wish(f"export of volume {source.volume}")
        self._guard(f"export of volume {source.volume}", owner, self._stamp_of(image, copy, frozen))
        if image is not None:
            return self._finish(owner, image, copy)
        if copy is None:
            self._begin_copy(owner, source, frozen)
        else:
            self._stamp_metadata("volume", copy, owner)
            self._upload_copy(owner, source, copy)
        return self._seen_of(owner)

    def _begin_copy(self, owner: OwnerTag, source: DiskSource, frozen: Payload | None) -> None:
        """Make the temporary volume, of a snapshot where the source is in use."""
        volume = self._volume_of(source)
        wish: dict[str, object] = {"size": volume["size"]}
        if source.snapshot is not None:
            wish["snapshot_id"] = self._snapshot_of(source.snapshot, source.volume)
        elif frozen is not None:
            if frozen["status"] != "available":
                return
            wish["snapshot_id"] = frozen["id"]
        elif volume["status"] == "available":
            wish["source_volid"] = source.volume
        else:
            self._freeze(owner, source, volume)
            return
        metadata = {
            mapping.OURS: owner.text(),
            mapping.EXPORT_ID: owner.artefact.hex,
            mapping.SOURCE: _told(source),
        }
        wish |= {"name": mapping.mark(owner.artefact), "metadata": metadata}
        what = f"copy of volume {source.volume}"
        self._client.send(
            "block_storage", "POST", "/volumes", {"volume": wish}, "volume", what=what
        )

    def _volume_of(self, source: DiskSource) -> Payload:
        path, what = f"/volumes/{source.volume}", f"volume {source.volume}"
        return self._client.get("block_storage", path, "volume", what=what)

    def _snapshot_of(self, artefact: ArtefactId, volume: str) -> str:
        for snapshot in self._by("snapshots", mapping.SNAPSHOT_ID, artefact):
            if snapshot["volume_id"] == volume:
                if snapshot["status"] != "available":
                    raise Busy(
                        f"snapshot {snapshot['id']} at site {self._client.site} is"
                        f" {snapshot['status']}: wait until it is available"
                    )
                return str(snapshot["id"])
        raise NotFound(
            f"there is no snapshot {artefact} of volume {volume} at site {self._client.site}: take"
            " one first"
        )

    def _freeze(self, owner: OwnerTag, source: DiskSource, volume: Payload) -> None:
        """Snapshot a volume of a stopped instance."""
        holder = mapping.attached_to(volume)
        if holder is not None:
            path, what = f"/servers/{holder}", f"instance {holder}"
            server = self._client.get("compute", path, "server", what=what)
            if mapping.power(server) is not Power.OFF:
                raise Conflict(
                    f"volume {source.volume} at site {self._client.site} may be written: stop its"
                    " instance or snapshot it, then export it"
                )
        wish = {
            "volume_id": source.volume,
            "name": mapping.mark(owner.artefact),
            "force": True,  # attached, though to an instance that is off
            "metadata": {
                mapping.OURS: owner.text(),
                mapping.EXPORT_ID: owner.artefact.hex,
                mapping.SOURCE: _told(source),
            },
        }
        what = f"snapshot of volume {source.volume}"
        self._client.call("block_storage", "POST", "/snapshots", {"snapshot": wish}, what=what)

    def _upload_copy(self, owner: OwnerTag, source: DiskSource, copy: Payload) -> None:
        """Describe the temporary volume, then have it uploaded."""
        if copy["status"] != "available":
            return
        ref = str(copy["id"])
        wished = {
            mapping.IMAGE_OWNER: owner.text(),
            mapping.IMAGE_SOURCE: _told(source),
            mapping.IMAGE_SIZE: str(int(copy["size"]) * GIB),
        }
        have = copy.get("volume_image_metadata") or {}
        if any(have.get(key) != value for key, value in wished.items()):
            self._on_volume(ref, {"os-set_image_metadata": {"metadata": wished}})
            return
        upload = {
            "image_name": mapping.mark(owner.artefact),
            "disk_format": "qcow2",
            "container_format": "bare",
            "force": True,
        }
        self._on_volume(ref, {"os-volume_upload_image": upload})

    def _finish(self, owner: OwnerTag, image: Payload, copy: Payload | None) -> ExportSeen:
        """Once the image has its bytes, the temporary volume is room for nothing."""
        if image["status"] == "active":
            if copy is not None and copy["status"] in {"available", "error"}:
                self._remove("volume", copy)
            higher = self._guard("export", owner, mapping.image_owner(image))
            if higher:
                image = self._patched(image, mapping.IMAGE_OWNER, owner.text())
        return self._export(image, copy, None)

    # Seeing.

    @staticmethod
    def _stamp_of(
        image: Payload | None, copy: Payload | None, frozen: Payload | None
    ) -> OwnerTag | None:
        """The highest stamp of the parts; the image's alone once it is there."""
        if image is not None:
            return mapping.image_owner(image)
        parts = [part for part in (copy, frozen) if part is not None]
        owners = [known for part in parts if (known := mapping.metadata_owner(part))]
        return max(owners, key=lambda known: known.epoch, default=None)

    def _seen_of(self, owner: OwnerTag) -> ExportSeen:
        return self._export(self._exported(owner), self._copy(owner), self._frozen(owner))

    def _export(
        self, image: Payload | None, copy: Payload | None, frozen: Payload | None
    ) -> ExportSeen:
        stamp = self._stamp_of(image, copy, frozen)
        stage, note, size = ExportStage.WORKING, "", 0
        if image is not None:
            size = int(image.get(mapping.IMAGE_SIZE) or 0)
            status = str(image["status"])
            note = f"image {status}"
            if status == "active":
                stage, note = ExportStage.READY, ""
            elif self._stuck(image, copy):
                stage, note = ExportStage.FAILED, "the site gave up its upload"
        else:
            part = copy or frozen
            if part is not None:
                size = int(part.get("size") or 0) * GIB
                note = f"{'volume' if copy else 'snapshot'} {part['status']}"
                if str(part["status"]).startswith("error"):
                    stage = ExportStage.FAILED
        return ExportSeen(stage=stage, size=size, epoch=stamp.epoch if stamp else 0, note=note)

    def _stuck(self, image: Payload, copy: Payload | None) -> bool:
        """Whether an upload ended without bytes: then the volume is free and the image queued."""
        if str(image["status"]) not in {"queued", "saving", "importing", "uploading"}:
            return True
        if copy is None or copy["status"] != "available":
            return False
        path, what = f"/images/{image['id']}", f"image {image['name']}"
        again = self._client.find("image", path, "", what=what)  # it may have ended just now
        return again is None or again["status"] == "queued"

    def find_export(self, owner: OwnerTag) -> Answer[ExportSeen]:
        image, copy, frozen = self._exported(owner), self._copy(owner), self._frozen(owner)
        if image is None and copy is None and frozen is None:
            return Absent()
        return Seen(self._export(image, copy, frozen))

    # Reading.

    def open_export(self, owner: OwnerTag) -> BlockReader:
        image = self._exported(owner)
        export = f"export {owner.artefact}"
        what = f"{export} at site {self._client.site}"
        if image is None or image["status"] != "active":
            raise Conflict(f"{what} is not ready: prepare it until it is")
        algorithm, digest = str(image.get("os_hash_algo")), image.get("os_hash_value")
        if not digest or not image.get("size"):
            raise Integrity(
                f"{what} has no digest, so its bytes cannot be proven: look at the image"
            )
        path = f"/images/{image['id']}/file"

        def fetch(offset: int, length: int) -> bytes:
            try:
                return self._client.download(path, offset, length, what=export)
            except NotFound as e:
                raise Unavailable(f"{what} was released: prepare and open it again") from e

        size = int(image["size"])
        source = ImageBytes(fetch, size=size, algorithm=algorithm, digest=str(digest), what=what)
        reader = ProvenReader(source, what=what)
        self._readers.setdefault(owner.artefact, []).append(reader)
        return reader

    def release_export(self, owner: OwnerTag) -> None:
        image, copy, frozen = self._exported(owner), self._copy(owner), self._frozen(owner)
        self._guard("export", owner, self._stamp_of(image, copy, frozen))
        for reader in self._readers.pop(owner.artefact, []):
            reader.close()
        if image is not None:
            self._drop(image)
        if copy is not None and self._is_free(copy):
            self._remove("volume", copy)
        if copy is None and frozen is not None and self._is_free(frozen):
            self._remove("snapshot", frozen)  # some backends keep it while a volume needs it

    @staticmethod
    def _is_free(part: Payload) -> bool:
        """Whether it can be deleted now; what is worked on is for a later call."""
        status = str(part["status"])
        return status == "available" or status.startswith("error")


def _told(source: DiskSource) -> str:
    """What the source is, as one text that later calls compare."""
    snapshot = f"@{source.snapshot.hex}" if source.snapshot else ""
    return f"{source.volume}{snapshot}"
