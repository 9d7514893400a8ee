"""Images as records and files: found, filled, digested and shown."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from drivers.simulators.faults import Direction
from drivers.simulators.openstack import inspection, qcow2
from drivers.simulators.openstack.cloud import Cloud, found
from drivers.simulators.openstack.wire import Call, Refusal
from drivers.simulators.openstack.world import Record, stamp
from drivers.simulators.sparse import is_zero


def missing(ident: str) -> str:
    return f"Failed to find image {ident}"


class ImageStore:
    """The images of one cloud."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._world = cloud.world

    def path(self, ident: str) -> Path:
        return self._world.folder_of("images") / ident

    def add(self, project: str, name: str, **fields: Any) -> Record:
        """A new image record, queued."""
        now = stamp() + "Z"
        record: Record = {
            "id": fields.pop("ident", None) or self._world.new_id(),
            "project_id": project,
            "name": name,
            "status": "queued",
            "visibility": "shared",
            "protected": False,
            "os_hidden": False,
            "checksum": None,
            "size": None,
            "virtual_size": None,
            "container_format": None,
            "disk_format": None,
            "min_disk": 0,
            "min_ram": 0,
            "tags": [],
            "os_hash_algo": None,
            "os_hash_value": None,
            "created_at": now,
            "updated_at": now,
            "extra": {},
        }
        return self._world.put("image", {**record, **fields})

    def activate(self, record: Record) -> None:
        """Digest the bytes that are there now and let the image be used; Refusal when they lie."""
        path = self.path(record["id"])
        sha, size = hashlib.sha512(), 0
        with path.open("rb") as file:
            head = file.read(512)
            file.seek(0)
            while block := file.read(1 << 20):
                if self._cloud.stopped():
                    raise InterruptedError
                sha.update(block)
                size += len(block)
        virtual = qcow2.virtual_size(head) if record["disk_format"] == "qcow2" else size
        self._world.update(
            "image",
            record["id"],
            os_hash_algo="sha512",
            os_hash_value=sha.hexdigest(),
            updated_at=stamp() + "Z",
            extra={**record["extra"], "stores": "fast"},
        )
        if virtual is None:
            raise Refusal(
                415, "Image disk_format qcow2 does not match stream data: the payload is raw"
            )
        if record["disk_format"] == "raw" and inspection.unsafe(head):
            raise Refusal(415, "Image failed safety checks")
        self._world.update(
            "image",
            record["id"],
            status="active",
            size=size,
            virtual_size=virtual,
        )

    def image(self, ident: str, call: Call) -> Record:
        return found(self._world.get("image", ident), missing(ident), call)

    def receive(self, record: Record, blocks: Iterable[bytes], direction: Direction) -> None:
        """Write arriving bytes to the image's file."""
        if self._cloud.faults.disk_full:
            raise Refusal(413, "Image storage media is full: There is not enough disk space")
        at = 0
        with self.path(record["id"]).open("wb") as file:
            for block in blocks:
                data = self._cloud.faults.passed(direction, at, block)
                if not is_zero(data):
                    file.seek(at)
                    file.write(data)
                at += len(data)
            file.truncate(at)

    def shown(self, record: Record) -> dict[str, Any]:
        hidden = {"project_id", "extra", "shared"}
        shown = {key: value for key, value in record.items() if key not in hidden}
        ident = record["id"]
        return {
            **shown,
            **record["extra"],
            "owner": record["project_id"],
            "self": f"/v2/images/{ident}",
            "file": f"/v2/images/{ident}/file",
            "schema": "/v2/schemas/image",
        }
