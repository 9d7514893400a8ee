"""Volume snapshots: frozen copies that volumes can be made from."""

from typing import Any

from drivers.simulators.openstack.cloud import Cloud, found
from drivers.simulators.openstack.ledger import Ledger
from drivers.simulators.openstack.wire import Call, Refusal, Reply, Routes
from drivers.simulators.openstack.world import Record, stamp


class Snapshots:
    """The snapshots of one cloud."""

    def __init__(self, cloud: Cloud, ledger: Ledger) -> None:
        self._cloud = cloud
        self._world = cloud.world
        self._ledger = ledger

    def add_routes(self, routes: Routes, root: str) -> None:
        routes.add("GET", f"{root}/snapshots/detail", self._list)
        routes.add("GET", f"{root}/snapshots", self._list)
        routes.add("POST", f"{root}/snapshots", self._create)
        routes.add("GET", f"{root}/snapshots/{{ident}}", self._show)
        routes.add("DELETE", f"{root}/snapshots/{{ident}}", self._delete)

    def one(self, call: Call, ident: str) -> Record:
        what = f"Snapshot {ident} could not be found."
        return found(self._world.get("snapshot", ident), what, call)

    @staticmethod
    def _shown(record: Record) -> dict[str, Any]:
        hidden = {"project_id", "image_metadata"}
        shown = {key: value for key, value in record.items() if key not in hidden}
        shown["os-extended-snapshot-attributes:project_id"] = record["project_id"]
        shown["os-extended-snapshot-attributes:progress"] = shown.pop("progress")
        return shown

    def _list(self, call: Call, project_id: str = "") -> Reply:
        del project_id
        records, links = self._ledger.paged(call, "snapshot", call.path)
        return Reply(status=200, body={"snapshots": [self._shown(r) for r in records], **links})

    def _show(self, call: Call, ident: str, project_id: str = "") -> Reply:
        del project_id
        return Reply(status=200, body={"snapshot": self._shown(self.one(call, ident))})

    def _create(self, call: Call, project_id: str = "") -> Reply:
        del project_id
        wish = call.json().get("snapshot", {})
        volume = self._ledger.volume(call, wish.get("volume_id", ""))
        force = str(wish.get("force", False)).lower() == "true" or call.version >= (3, 66)
        if volume["status"] not in ({"available", "in-use"} if force else {"available"}):
            raise Refusal(
                400,
                f"Invalid volume: Volume {volume['id']} status must be available, but current"
                f" status is: {volume['status']}.",
            )
        name, metadata = wish.get("name"), dict(wish.get("metadata") or {})
        record = self.make(call, volume, name, metadata)
        return Reply(status=202, body={"snapshot": self._shown(record)})

    def make(
        self, call: Call, volume: Record, name: str | None, metadata: dict[str, str]
    ) -> Record:
        """A new snapshot of the volume, filled in the next step."""
        self._ledger.reserve(call, "snapshots", volume["size"])
        now = stamp(micro=True)
        record: Record = {
            "id": self._world.new_id(),
            "project_id": call.project,
            "volume_id": volume["id"],
            "name": name,
            "description": None,
            "size": volume["size"],
            "status": "creating",
            "progress": "0%",
            "metadata": metadata,
            "image_metadata": dict(volume["image_metadata"]),
            "created_at": now,
            "updated_at": now,
            "user_id": call.token["user_id"],
            "group_snapshot_id": None,
            "consumes_quota": True,
        }
        self._world.put("snapshot", record)
        self._cloud.step("snapshot.create", ident=record["id"])
        return record

    def _delete(self, call: Call, ident: str, project_id: str = "") -> Reply:
        del project_id
        record = self.one(call, ident)
        if record["status"] not in {"available", "error"}:
            raise Refusal(
                400,
                "Invalid snapshot: Snapshot status must be available or error, but current status"
                f" is: {record['status']}",
            )
        self._world.update("snapshot", ident, status="deleting")
        self._cloud.step("snapshot.delete", ident=ident)
        return Reply(status=202)
