"""Block storage and snapshots as Cinder keeps them, found again by what their metadata say."""

import json

from controlplane.domain.answer import Absent, Answer, Seen
from controlplane.domain.disk import (
    GIB,
    DiskBus,
    SnapshotSeen,
    VolumeSeen,
    VolumeSpec,
    VolumeState,
)
from controlplane.domain.errors import Busy, Conflict, Invalid
from controlplane.domain.ids import ArtefactId
from controlplane.domain.owner import OwnerTag
from drivers.contract import Snapshots, Volumes
from drivers.openstack import mapping
from drivers.openstack.base import Site
from drivers.openstack.mapping import Payload

READABLE = {"available", "error"}


class Disks(Site, Volumes, Snapshots):
    def _by(self, kind: str, key: str, artefact: ArtefactId) -> list[Payload]:
        """Volumes or snapshots whose metadata name an artefact, the oldest first."""
        query = {"metadata": json.dumps({key: artefact.hex})}
        what = f"{kind} of {artefact}"
        found = self._client.listing(
            "block_storage", f"/{kind}/detail", kind, what=what, params=query
        )
        return sorted(found, key=lambda record: (str(record.get("created_at")), str(record["id"])))

    def _remove(self, kind: str, record: Payload) -> None:
        path, what = f"/{kind}s/{record['id']}", f"{kind} {record['id']}"
        self._client.call("block_storage", "DELETE", path, what=what, accept=(404,))

    def _on_volume(self, ref: str, action: dict[str, object]) -> None:
        path, what = f"/volumes/{ref}/action", f"volume {ref}"
        self._client.call("block_storage", "POST", path, action, what=what)

    # Volumes.

    def find_volume(self, owner: OwnerTag) -> Answer[VolumeSeen]:
        found = self._by("volumes", mapping.VOLUME_ID, owner.artefact)
        return Seen(mapping.volume(found[0])) if found else Absent()

    def create_volume(self, owner: OwnerTag, spec: VolumeSpec) -> str:
        self._named(spec.name)
        if not 0 < spec.size <= self.limits.disk_max:
            raise Invalid(
                f"volume {spec.name}: {spec.size} bytes cannot be; site {self._client.site} makes"
                f" 1 to {self.limits.disk_max}: change the size"
            )
        found = self._by("volumes", mapping.VOLUME_ID, owner.artefact)
        volume = found[0] if found else self._make_volume(owner, spec)
        if found:
            same = volume.get("name") == spec.name and volume.get("size") == mapping.gib(spec.size)
            self._guard(f"volume {spec.name}", owner, mapping.metadata_owner(volume))
            if not same:
                raise self._other_wish(f"volume {spec.name}")
            self._stamp_metadata("volume", volume, owner)
        if spec.bootable and spec.image is None and volume.get("bootable") != "true":
            self._on_volume(str(volume["id"]), {"os-set_bootable": {"bootable": True}})
        if spec.bus is not DiskBus.VIRTIO and mapping.bus(volume) is not spec.bus:
            wished = {"metadata": mapping.disk_bus(spec.bus)}
            self._on_volume(str(volume["id"]), {"os-set_image_metadata": wished})
        return str(volume["id"])

    def _make_volume(self, owner: OwnerTag, spec: VolumeSpec) -> Payload:
        wish: dict[str, object] = {
            "name": spec.name,
            "size": mapping.gib(spec.size),
            "metadata": {mapping.OURS: owner.text(), mapping.VOLUME_ID: owner.artefact.hex},
        }
        if spec.image:
            wish["imageRef"] = spec.image
        if spec.storage:
            wish["volume_type"] = spec.storage
        return self._client.send(
            "block_storage",
            "POST",
            "/volumes",
            {"volume": wish},
            "volume",
            what=f"volume {spec.name}",
        )

    def delete_volume(self, owner: OwnerTag) -> None:
        for volume in self._by("volumes", mapping.VOLUME_ID, owner.artefact):
            what = f"volume {volume['name']}"
            self._guard(what, owner, mapping.metadata_owner(volume))
            status = str(volume.get("status"))
            if mapping.volume_state(volume) is VolumeState.IN_USE or volume.get("attachments"):
                raise Conflict(
                    f"{what} at site {self._client.site} is attached: delete its instance first"
                )
            if status == "deleting":
                continue
            if status != "available" and not status.startswith("error"):
                raise Busy(f"{what} at site {self._client.site} is {status}: wait for that")
            self._remove("volume", volume)

    # Snapshots.

    def create_snapshot(self, owner: OwnerTag, instance: str) -> str:
        """One snapshot a volume, one right after the other: Cinder has no moment for several."""
        what = f"snapshot of instance {instance}"
        path = f"/servers/{instance}"
        server = self._client.get("compute", path, "server", what=what)
        volumes = mapping.volume_refs(server)
        found = self._by("snapshots", mapping.SNAPSHOT_ID, owner.artefact)
        for snapshot in found:
            self._guard(what, owner, mapping.metadata_owner(snapshot))
            if snapshot["metadata"].get(mapping.SOURCE) != instance:
                raise self._other_wish(what)
            self._stamp_metadata("snapshot", snapshot, owner)
        if not volumes and not found:
            raise Busy(f"{what} at site {self._client.site}: it has no volumes yet; wait for them")
        held = {str(snapshot["volume_id"]): str(snapshot["id"]) for snapshot in found}
        for volume in volumes:
            if volume not in held:
                held[volume] = self._make_snapshot(owner, volume, instance, len(volumes))
        return held[volumes[0]] if volumes else str(found[0]["id"])

    def _make_snapshot(self, owner: OwnerTag, volume: str, instance: str, beside: int) -> str:
        wish = {
            "volume_id": volume,
            "name": mapping.mark(owner.artefact),
            "force": True,  # the volume is in use
            "metadata": {
                mapping.OURS: owner.text(),
                mapping.SNAPSHOT_ID: owner.artefact.hex,
                mapping.SOURCE: instance,
                mapping.BESIDE: str(beside),
            },
        }
        what = f"snapshot of volume {volume}"
        made = self._client.send(
            "block_storage", "POST", "/snapshots", {"snapshot": wish}, "snapshot", what=what
        )
        return str(made["id"])

    def find_snapshot(self, owner: OwnerTag) -> Answer[SnapshotSeen]:
        found = self._by("snapshots", mapping.SNAPSHOT_ID, owner.artefact)
        if not found:
            return Absent()
        known = mapping.metadata_owner(found[0])
        # Made one by one, and listed as they come: the first alone is no snapshot of the instance.
        volumes = {str(each["volume_id"]) for each in found}
        whole = len(volumes) >= max(map(mapping.beside, found))
        failed = [each for each in found if str(each["status"]).startswith("error")]
        return Seen(
            SnapshotSeen(
                ref=str(found[0]["id"]),
                ready=whole and all(snapshot["status"] == "available" for snapshot in found),
                epoch=known.epoch if known else 0,
                failed=", ".join(
                    f"snapshot {each['id']} of volume {each['volume_id']} is in the state"
                    f" {each['status']}"
                    for each in failed
                ),
            )
        )

    def delete_snapshot(self, owner: OwnerTag) -> None:
        for snapshot in self._by("snapshots", mapping.SNAPSHOT_ID, owner.artefact):
            what = f"snapshot {snapshot['id']}"
            self._guard(what, owner, mapping.metadata_owner(snapshot))
            if snapshot["status"] == "deleting":
                continue
            if snapshot["status"] not in READABLE:
                raise Busy(
                    f"{what} at site {self._client.site} is {snapshot['status']}: wait for that"
                )
            self._remove("snapshot", snapshot)

    @staticmethod
    def _bytes(volume: Payload) -> int:
        return int(volume.get("size") or 0) * GIB
