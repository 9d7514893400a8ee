"""Block storage v3: volumes and snapshots, their actions, metadata, quotas, and attachments."""

from typing import Any

from drivers.simulators.openstack.cloud import (
    Cloud,
    mine,
    negotiated,
    set_quota,
    version_of,
)
from drivers.simulators.openstack.image_store import ImageStore
from drivers.simulators.openstack.ledger import TYPES, Ledger
from drivers.simulators.openstack.snapshots import Snapshots
from drivers.simulators.openstack.volume_actions import VolumeActions
from drivers.simulators.openstack.volumes import Volumes
from drivers.simulators.openstack.wire import Call, Refusal, Reply, Routes
from drivers.simulators.openstack.world import Record, stamp

LOW, HIGH = (3, 0), (3, 71)
FREE = {"available", "error", "error_restoring", "error_extending", "error_managing"}


class Cinder:
    """The block storage service."""

    def __init__(self, cloud: Cloud, images: ImageStore) -> None:
        self._cloud = cloud
        self._world = cloud.world
        self._images = images
        self._ledger = Ledger(cloud)
        self.volumes = Volumes(cloud, images)
        self.snapshots = Snapshots(cloud, self._ledger)
        self.actions = VolumeActions(cloud, self._ledger, self.volumes, images)
        self.routes = Routes()
        add = self.routes.add
        add("GET", "/volume", self._versions)
        add("GET", "/volume/v3", self._version)
        # Since 3.67 the project's id may be left out of the path.
        for root in ("/volume/v3/{project_id}", "/volume/v3"):
            add("GET", f"{root}/volumes/detail", self._detail)
            add("GET", f"{root}/volumes", self._list)
            add("POST", f"{root}/volumes", self._create)
            add("GET", f"{root}/volumes/{{ident}}", self._show)
            add("PUT", f"{root}/volumes/{{ident}}", self._rename)
            add("DELETE", f"{root}/volumes/{{ident}}", self._delete)
            self.actions.add_routes(self.routes, root)
            for verb in ("GET", "POST", "PUT"):
                add(verb, f"{root}/{{kind}}/{{ident}}/metadata", self._metadata)
            add("DELETE", f"{root}/{{kind}}/{{ident}}/metadata/{{key}}", self._delete_metadata)
            self.snapshots.add_routes(self.routes, root)
            add("GET", f"{root}/types", self._types)
            add("GET", f"{root}/types/{{ident}}", self._type)
            add("GET", f"{root}/limits", self._limits)
            add("GET", f"{root}/os-quota-sets/{{whose}}", self._quota)
            add("PUT", f"{root}/os-quota-sets/{{whose}}", self._set_quota)
            add("GET", f"{root}/os-availability-zone", self._zones)
            add("GET", f"{root}/attachments", self._attachments)
            add("POST", f"{root}/attachments", self._attach)

    def negotiate(self, call: Call) -> None:
        """Read the microversion of a call, and tell it in the answer's headers."""
        asked = version_of(call.headers.get("OpenStack-API-Version"), "volume")
        if call.path.startswith("/volume/v3/"):
            text = (
                asked if asked and asked != "latest" else ".".join(map(str, HIGH if asked else LOW))
            )
            call.spoken = {
                "OpenStack-API-Version": f"volume {text}",
                "Vary": "OpenStack-API-Version",
            }
        call.version = negotiated(asked, LOW, HIGH)

    # versions, types, limits

    def _describe(self, call: Call) -> dict[str, Any]:
        return {
            "id": "v3.0",
            "status": "CURRENT",
            "version": f"{HIGH[0]}.{HIGH[1]}",
            "min_version": f"{LOW[0]}.{LOW[1]}",
            "updated": "2023-08-31T00:00:00Z",
            "links": [{"rel": "self", "href": f"{call.base}/volume/v3/"}],
            "media-types": [
                {
                    "base": "application/json",
                    "type": "application/vnd.openstack.volume+json;version=3",
                }
            ],
        }

    def _versions(self, call: Call) -> Reply:
        return Reply(status=300, body={"versions": [self._describe(call)]})

    def _version(self, call: Call) -> Reply:
        return Reply(status=200, body={"versions": [self._describe(call)]})

    def _types(self, call: Call, project_id: str = "") -> Reply:
        del call, project_id
        return Reply(status=200, body={"volume_types": [self._ledger.typed(n) for n in TYPES]})

    def _type(self, call: Call, ident: str, project_id: str = "") -> Reply:
        del call, project_id
        name = next((n for n, i in TYPES.items() if ident in {n, i, "default"}), None)
        if name is None:
            raise Refusal(404, f"Volume type {ident} could not be found.")
        return Reply(status=200, body={"volume_type": self._ledger.typed(name)})

    def _quota(self, call: Call, whose: str, project_id: str = "") -> Reply:
        del project_id
        quota, used = self._cloud.knobs.quota, self._ledger.used(call.project)
        names = ("volumes", "snapshots", "gigabytes", "per_volume_gigabytes")
        shown: dict[str, Any] = {name: quota[name] for name in names}
        if call.one("usage") in {"True", "true", "1"}:
            shown = {
                name: {"limit": quota[name], "in_use": used.get(name, 0), "reserved": 0}
                for name in names
            }
        return Reply(status=200, body={"quota_set": {"id": whose, **shown}})

    def _set_quota(self, call: Call, whose: str, project_id: str = "") -> Reply:
        set_quota(self._cloud, call, call.json()["quota_set"])
        return self._quota(call, whose, project_id)

    def _limits(self, call: Call, project_id: str = "") -> Reply:
        del project_id
        quota, used = self._cloud.knobs.quota, self._ledger.used(call.project)
        absolute = {
            "maxTotalVolumes": quota["volumes"],
            "maxTotalSnapshots": quota["snapshots"],
            "maxTotalVolumeGigabytes": quota["gigabytes"],
            "totalVolumesUsed": used["volumes"],
            "totalSnapshotsUsed": used["snapshots"],
            "totalGigabytesUsed": used["gigabytes"],
        }
        return Reply(status=200, body={"limits": {"rate": [], "absolute": absolute}})

    def _zones(self, call: Call, project_id: str = "") -> Reply:
        del call, project_id
        zones = [{"zoneName": "nova", "zoneState": {"available": True}}]
        return Reply(status=200, body={"availabilityZoneInfo": zones})

    # volumes

    def shown(self, record: Record, call: Call) -> dict[str, Any]:
        hidden = {"project_id", "source_image", "why", "image_metadata"}
        shown = {key: value for key, value in record.items() if key not in hidden}
        shown["links"] = [
            {"rel": "self", "href": f"{call.base}/volume/v3/volumes/{record['id']}"},
            {"rel": "bookmark", "href": f"{call.base}/volume/volumes/{record['id']}"},
        ]
        shown["os-vol-tenant-attr:tenant_id"] = record["project_id"]
        shown.pop("host", None)
        if call.admin:
            shown["os-vol-host-attr:host"] = record.get("host")
        if record["image_metadata"]:
            shown["volume_image_metadata"] = record["image_metadata"]
        if call.version < (3, 61):
            shown.pop("cluster_name", None)
        return shown

    def _detail(self, call: Call, project_id: str = "") -> Reply:
        del project_id
        records, links = self._ledger.paged(call, "volume", call.path)
        return Reply(status=200, body={"volumes": [self.shown(r, call) for r in records], **links})

    def _list(self, call: Call, project_id: str = "") -> Reply:
        del project_id
        records, links = self._ledger.paged(call, "volume", call.path)
        full = (self.shown(r, call) for r in records)
        brief = [{key: r[key] for key in ("id", "name", "links")} for r in full]
        return Reply(status=200, body={"volumes": brief, **links})

    def _show(self, call: Call, ident: str, project_id: str = "") -> Reply:
        del project_id
        return Reply(
            status=200, body={"volume": self.shown(self._ledger.volume(call, ident), call)}
        )

    def _create(self, call: Call, project_id: str = "") -> Reply:
        del project_id
        wish = call.json().get("volume", {})
        snapshot, source = wish.get("snapshot_id"), wish.get("source_volid")
        size = wish.get("size")
        origin: Record | None = None
        if snapshot:
            origin = self.snapshots.one(call, snapshot)
            if origin["status"] != "available":
                raise Refusal(
                    400,
                    "Invalid snapshot: Originating snapshot status must be one of available values",
                )
        elif source:
            origin = self._ledger.volume(call, source)
        size = size or (origin and origin["size"])
        if not isinstance(size, int | str) or not str(size).isdecimal() or int(size) < 1:
            raise Refusal(
                400,
                f"Invalid input received: Volume size '{size}' must be an"
                " integer and greater than 0",
            )
        if origin and int(size) < origin["size"]:
            raise Refusal(
                400,
                f"Invalid input received: Volume size {size}GB cannot be"
                f" smaller than the snapshot size {origin['size']}GB.",
            )
        image = self._source_image(call, wish.get("imageRef"), int(size))
        kind = wish.get("volume_type") or "nfs"
        if kind not in {*TYPES, *TYPES.values()}:
            raise Refusal(404, f"Volume type with name {kind} could not be found.")
        if any(len(str(v)) > 255 for v in (wish.get("metadata") or {}).values()):
            raise Refusal(400, "Invalid input: metadata values have at most 255 characters")
        self._ledger.reserve(call, "volumes", int(size))
        now = stamp(micro=True)
        properties = dict(image["extra"]) if image else {}
        record: Record = {
            "id": self._world.new_id(),
            "project_id": call.project,
            "name": wish.get("name"),
            "description": wish.get("description"),
            "size": int(size),
            "status": "creating",
            "bootable": "false",
            "encrypted": False,
            "multiattach": False,
            "availability_zone": "nova",
            "volume_type": kind
            if kind in TYPES
            else next(n for n, i in TYPES.items() if i == kind),
            "user_id": call.token["user_id"],
            "snapshot_id": snapshot,
            "source_volid": source,
            "source_image": image["id"] if image else None,
            "consistencygroup_id": None,
            "replication_status": None,
            "migration_status": None,
            "group_id": None,
            "attachments": [],
            "metadata": dict(wish.get("metadata") or {}),
            "image_metadata": self._image_metadata(image, properties),
            "created_at": now,
            "updated_at": now,
            "cluster_name": None,
            "host": None,
            "why": "",
            "service_uuid": None,
            "shared_targets": False,
        }
        if origin and origin.get("image_metadata"):
            record["image_metadata"] = dict(origin["image_metadata"])
            record["bootable"] = "true"
        self._world.put("volume", record)
        self._cloud.step("volume.create", ident=record["id"])
        return Reply(status=202, body={"volume": self.shown(record, call)})

    def _source_image(self, call: Call, ident: str | None, size: int) -> Record | None:
        if not ident:
            return None
        image = self._world.get("image", ident)
        if image is None or image["project_id"] != call.project:
            raise Refusal(400, "Invalid image identifier or unable to access requested image.")
        if image["status"] != "active":
            raise Refusal(400, f"Invalid input received: Image {ident} is not active.")
        least = max(-(-(image["size"] or 0) // (1 << 30)), image["min_disk"])
        if size < least:
            raise Refusal(
                400,
                f"Invalid input received: Size of specified image {least}GB is"
                f" larger than volume size {size}GB.",
            )
        return image

    @staticmethod
    def _image_metadata(image: Record | None, properties: dict[str, Any]) -> dict[str, str]:
        if image is None:
            return {}
        kept = {
            k: str(v)
            for k, v in properties.items()
            if not k.startswith("os_glance") and k != "stores"
        }
        own = ("checksum", "container_format", "disk_format", "min_disk", "min_ram", "size")
        return {
            **kept,
            **{key: str(image[key]) for key in own},
            "image_id": image["id"],
            "image_name": str(image["name"]),
            "signature_verified": "False",
        }

    def _rename(self, call: Call, ident: str, project_id: str = "") -> Reply:
        del project_id
        self._ledger.volume(call, ident)
        wish = call.json().get("volume", {})
        kept = {k: wish[k] for k in ("name", "description", "metadata") if k in wish}
        self.volumes.touch(ident, **kept)
        return self._show(call, ident)

    def _delete(self, call: Call, ident: str, project_id: str = "") -> Reply:
        del project_id
        record = self._ledger.volume(call, ident)
        if record["status"] == "creating" and not record["host"]:  # no host has it yet
            self._world.drop("volume", ident)
            return Reply(status=202)
        snapshots = next(self._world.where("snapshot", volume_id=ident), None)
        if record["status"] not in FREE or record["attachments"] or snapshots:
            raise Refusal(
                400,
                "Invalid volume: Volume status must be available or error or error_restoring or"
                " error_extending or error_managing and must not be migrating,"
                " attached, belong to a"
                " group, have snapshots, awaiting a transfer, or be"
                " disassociated from snapshots after"
                " volume transfer.",
            )
        self.volumes.touch(ident, status="deleting")
        self._cloud.step("volume.delete", ident=ident)
        return Reply(status=202)

    # metadata of volumes and snapshots

    def _metadata(self, call: Call, kind: str, ident: str, project_id: str = "") -> Reply:
        del project_id
        single, record = self._described(call, kind, ident)
        if call.method != "GET":
            given = call.json().get("metadata", {})
            kept = {**record["metadata"], **given} if call.method == "POST" else given
            self._world.update(single, ident, metadata=kept)
            record["metadata"] = kept
        return Reply(status=200, body={"metadata": record["metadata"]})

    def _delete_metadata(
        self, call: Call, kind: str, ident: str, key: str, project_id: str = ""
    ) -> Reply:
        del project_id
        single, record = self._described(call, kind, ident)
        if key not in record["metadata"]:
            raise Refusal(404, f"Metadata item {key} not found")
        kept = {k: v for k, v in record["metadata"].items() if k != key}
        self._world.update(single, ident, metadata=kept)
        return Reply(status=200)

    def _described(self, call: Call, kind: str, ident: str) -> tuple[str, Record]:
        if kind == "volumes":
            return "volume", self._ledger.volume(call, ident)
        if kind == "snapshots":
            return "snapshot", self.snapshots.one(call, ident)
        raise Refusal(404, "The resource could not be found.")

    # attachments without an instance

    def _attachments(self, call: Call, project_id: str = "") -> Reply:
        del project_id
        volume = call.one("volume_id")
        shown = [
            {
                "id": held["attachment_id"],
                "volume_id": held["volume_id"],
                "instance": server["id"],
                "status": "attached" if server["launched_at"] else "reserved",
            }
            for server in mine(self._world.all("server"), call)
            for held in server["volumes"]
            if volume in {None, held["volume_id"]}
        ]
        return Reply(status=200, body={"attachments": shown})

    def _attach(self, call: Call, project_id: str = "") -> Reply:
        del project_id
        if call.version < (3, 27):
            raise Refusal(404, "The resource could not be found.")
        raise Refusal(403, "Policy doesn't allow volume:attachment_create with a connector.")
