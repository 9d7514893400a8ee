"""What cinder keeps of volumes and snapshots: found, paged, and counted against the quota."""

import ast
import json
from typing import Any

from drivers.simulators.openstack.cloud import Cloud, found, mine, page
from drivers.simulators.openstack.wire import Call, Refusal
from drivers.simulators.openstack.world import Record

TYPES = {
    "nfs": "c8f8e7d2-3f0e-4a42-9d4e-7a2a4f1d9b01",
    "__DEFAULT__": "c8f8e7d2-3f0e-4a42-9d4e-7a2a4f1d9b02",
}


class Ledger:
    """The records of block storage of one cloud."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._world = cloud.world

    def volume(self, call: Call, ident: str) -> Record:
        return found(self._world.get("volume", ident), f"Volume {ident} could not be found.", call)

    def _chosen(self, call: Call, kind: str) -> list[Record]:
        records = sorted(
            mine(self._world.all(kind), call), key=lambda r: (r["created_at"], r["id"])
        )[::-1]
        for key in ("name", "status", "volume_id", "bootable"):
            if (value := call.one(key)) is not None:
                records = [r for r in records if r.get(key) == value]
        if (text := call.one("metadata")) is not None:
            try:
                wanted = json.loads(text)
            except ValueError:
                wanted = ast.literal_eval(text)
            records = [r for r in records if wanted.items() <= r["metadata"].items()]
        return records

    def paged(self, call: Call, kind: str, path: str) -> tuple[list[Record], dict[str, Any]]:
        refuse = lambda text: Refusal(400, text)  # noqa: E731  # one word for one case
        most = self._cloud.knobs.max_page
        records, following = page(self._chosen(call, kind), call, call.base + path, most, refuse)
        links = [{"rel": "next", "href": following}] if following else []
        return records, {f"{kind}s_links": links} if links else {}

    def used(self, project: str) -> dict[str, int]:
        volumes = list(self._world.where("volume", project_id=project))
        snapshots = list(self._world.where("snapshot", project_id=project))
        sizes = sum(r["size"] for r in volumes) + sum(r["size"] for r in snapshots)
        return {"volumes": len(volumes), "snapshots": len(snapshots), "gigabytes": sizes}

    def reserve(self, call: Call, what: str, size: int) -> None:
        """Refuse as cinder does, with 413, when a quota would be passed."""
        quota, used = self._cloud.knobs.quota, self.used(call.project)
        kind = "VolumeLimitExceeded" if what == "volumes" else "SnapshotLimitExceeded"
        message = ""
        if 0 <= quota["per_volume_gigabytes"] < size:
            raise Refusal(
                413,
                f"VolumeSizeExceedsLimit: Requested volume size {size}G is larger than maximum"
                f" allowed limit {quota['per_volume_gigabytes']}G.",
                headers={"Retry-After": "0"},
            )
        if 0 <= quota[what] <= used[what]:
            message = (
                f"{kind}: Maximum number of {what} allowed ({quota[what]})"
                f" exceeded for quota '{what}'."
            )
        elif 0 <= quota["gigabytes"] < used["gigabytes"] + size:
            message = (
                "VolumeSizeExceedsAvailableQuota: Requested volume or snapshot exceeds allowed"
                f" gigabytes quota. Requested {size}G, quota is {quota['gigabytes']}G and"
                f" {used['gigabytes']}G has been consumed."
            )
        if message:
            raise Refusal(413, message, headers={"Retry-After": "0"})

    @staticmethod
    def typed(name: str) -> dict[str, Any]:
        return {
            "id": TYPES[name],
            "name": name,
            "is_public": True,
            "description": None,
            "extra_specs": {},
            "qos_specs_id": None,
            "os-volume-type-access:is_public": True,
        }
