"""What one may do to a volume: grow it, upload it, describe it."""

from typing import Any

from drivers.simulators.openstack.cloud import Cloud
from drivers.simulators.openstack.image_store import ImageStore
from drivers.simulators.openstack.ledger import Ledger
from drivers.simulators.openstack.volumes import Volumes
from drivers.simulators.openstack.wire import Call, Refusal, Reply, Routes
from drivers.simulators.openstack.world import Record

# What a volume remembers of its image; all else becomes a property of an image made from it.
CORE = {
    *("checksum", "container_format", "disk_format", "min_disk", "min_ram", "size"),
    *("image_id", "image_name", "signature_verified"),
}


class VolumeActions:
    """The actions of volumes, by the name that a request gives."""

    def __init__(self, cloud: Cloud, ledger: Ledger, volumes: Volumes, images: ImageStore) -> None:
        self._cloud = cloud
        self._ledger, self._volumes = ledger, volumes
        self._images = images

    def add_routes(self, routes: Routes, root: str) -> None:
        routes.add("POST", f"{root}/volumes/{{ident}}/action", self._action)

    def _action(self, call: Call, ident: str, project_id: str = "") -> Reply:
        del project_id
        record = self._ledger.volume(call, ident)
        wish = call.json()
        name = next(iter(wish), "")
        args: dict[str, Any] = wish.get(name) or {}
        if name == "os-extend":
            return self._extend(call, record, int(args["new_size"]))
        if name == "os-volume_upload_image":
            return self._to_image(call, record, args)
        if name == "os-set_image_metadata":
            record["image_metadata"].update(args["metadata"])
            self._volumes.touch(ident)
            return Reply(status=200, body={"metadata": record["image_metadata"]})
        if name == "os-unset_image_metadata":
            record["image_metadata"].pop(args["key"], None)
            self._volumes.touch(ident)
            return Reply(status=200)
        if name == "os-set_bootable":
            self._volumes.touch(ident, bootable=str(bool(args["bootable"])).lower())
            return Reply(status=200)
        if name == "os-reset_status":
            if not call.admin:
                raise Refusal(
                    403,
                    "Policy doesn't allow"
                    " volume_extension:volume_admin_actions:reset_status to be"
                    " performed.",
                )
            self._volumes.touch(ident, status=args["status"])
            return Reply(status=202)
        raise Refusal(400, f"There is no such action: {name}")

    def _extend(self, call: Call, record: Record, size: int) -> Reply:
        if record["status"] not in {"available", "in-use"} or (
            record["status"] == "in-use" and call.version < (3, 42)
        ):
            raise Refusal(
                400,
                f"Invalid volume: Volume {record['id']} status must be"
                " ('available',) to extend, but current status is:"
                f" {record['status']}",
            )
        if size <= record["size"]:
            raise Refusal(
                400,
                "Invalid input received: New size for extend must be greater"
                f" than current size. (current: {record['size']}, extended:"
                f" {size}).",
            )
        grown = size - record["size"]
        quota, used = self._cloud.knobs.quota, self._ledger.used(call.project)
        if 0 <= quota["gigabytes"] < used["gigabytes"] + grown:
            raise Refusal(
                413,
                "VolumeSizeExceedsAvailableQuota: Requested volume exceeds"
                " allowed gigabytes quota.",
                headers={"Retry-After": "0"},
            )
        back = record["status"]
        self._volumes.touch(record["id"], status="extending")
        self._cloud.step("volume.extend", ident=record["id"], size=size, back=back)
        return Reply(status=202)

    def _to_image(self, call: Call, record: Record, args: dict[str, Any]) -> Reply:
        force = str(args.get("force", False)).lower() == "true"
        allowed = {"available"} | (
            {"in-use"} if force and self._cloud.knobs.allow_force_upload else set()
        )
        if record["status"] not in allowed:
            raise Refusal(
                400,
                f"Invalid volume: Volume {record['id']} status must be"
                f" available, but current status is: {record['status']}.",
            )
        form = args.get("disk_format", "raw")
        if form not in {"raw", "qcow2", "vmdk", "vdi", "vhd", "vhdx", "ploop"}:
            raise Refusal(400, f"Invalid disk_format: {form}")
        image = self._images.add(
            call.project,
            args["image_name"],
            disk_format=form,
            container_format=args.get("container_format", "bare"),
            extra={k: v for k, v in record["image_metadata"].items() if k not in CORE},
        )
        back = record["status"]
        self._volumes.touch(record["id"], status="uploading")
        self._cloud.step("volume.upload", ident=record["id"], image=image["id"], back=back)
        body = {
            "id": record["id"],
            "updated_at": record["updated_at"],
            "status": "uploading",
            "display_description": record["description"],
            "size": record["size"],
            "volume_type": self._ledger.typed(record["volume_type"]),
            "image_id": image["id"],
            "container_format": image["container_format"],
            "disk_format": form,
            "image_name": args["image_name"],
            "visibility": "private",
            "protected": False,
        }
        return Reply(status=202, body={"os-volume_upload_image": body})
