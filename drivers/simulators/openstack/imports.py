"""Image import tasks: glance fetches a URL itself, or takes in what was staged, or says why not."""

import http.client
from collections.abc import Iterator
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from drivers.simulators.faults import Direction
from drivers.simulators.openstack.cloud import Cloud
from drivers.simulators.openstack.image_store import ImageStore
from drivers.simulators.openstack.wire import Call, Refusal, Reply
from drivers.simulators.openstack.world import Record, stamp

METHODS = ("glance-direct", "web-download", "glance-download", "copy-image")


class Imports:
    """The import tasks of the image service."""

    def __init__(self, cloud: Cloud, store: ImageStore) -> None:
        self._cloud = cloud
        self._store = store
        cloud.world.action("image.import", self._run)
        cloud.world.action("image.imported", self._imported)

    def info(self, call: Call) -> Reply:
        del call
        described = {
            "import-methods": {
                "description": "Import methods available.",
                "type": "array",
                "value": list(METHODS),
            }
        }
        return Reply(status=200, body=described)

    def start(self, call: Call, ident: str) -> Reply:
        record = self._store.image(ident, call)
        wish = call.json()
        method = wish.get("method", {}).get("name")
        if method not in METHODS:
            raise Refusal(400, f"Unknown import method name '{method}'.")
        if not record["disk_format"] or not record["container_format"]:
            raise Refusal(400, "'container_format' needs to be set before import")
        wanted = "uploading" if method == "glance-direct" else "queued"
        if record["status"] != wanted:
            raise Refusal(
                409,
                f"Image needs to be in '{wanted}' state to use '{method}' method"
                if method == "glance-direct"
                else f"Image needs to be in 'queued' state to use '{method}' method",
            )
        uri = wish["method"].get("uri")
        if method == "web-download" and not self._may_pull(str(uri)):
            raise Refusal(400, f"URI for web-download does not pass filtering: {uri}")
        if method in {"glance-download", "copy-image"}:
            raise Refusal(403, f"Import method {method} is not for projects")
        world = self._cloud.world
        task = {
            "id": world.new_id(),
            "image_id": ident,
            "status": "pending",
            "type": "api_image_import",
            "message": "",
            "created_at": stamp() + "Z",
            "project_id": call.project,
        }
        world.put("image-task", task)
        extra = {
            **record["extra"],
            "os_glance_importing_to_stores": "fast",
            "os_glance_failed_import": "",
            "os_glance_import_task": task["id"],
        }
        world.update("image", ident, extra=extra)
        self._cloud.step("image.import", ident=ident, uri=uri, task=task["id"])
        return Reply(status=202, body=b"")

    def tasks(self, call: Call, ident: str) -> Reply:
        self._store.image(ident, call)
        records = list(self._cloud.world.where("image-task", image_id=ident))
        return Reply(status=200, body={"tasks": records})

    def _may_pull(self, uri: str) -> bool:
        parts = urlsplit(uri)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            return False
        loopback = parts.hostname == "localhost" or parts.hostname.startswith("127.")
        if loopback and not self._cloud.knobs.allow_loopback_pull:
            return False
        ports = self._cloud.knobs.pull_ports
        port = parts.port or (443 if parts.scheme == "https" else 80)
        if ports is None:
            return loopback or port in {80, 443}
        return port in ports | {80, 443}

    def _run(self, ident: str, uri: str | None, task: str) -> None:
        world = self._cloud.world
        record = world.get("image", ident)
        if record is None:
            return
        world.update("image", ident, status="importing")
        world.update("image-task", task, status="processing")
        try:
            self._take_in(record, uri)
        except (Refusal, OSError, ValueError, http.client.HTTPException) as e:
            if isinstance(e, InterruptedError):
                raise
            self._fail(ident, task, str(e))
            return
        self._cloud.step("image.imported", 0.2, ident=ident, task=task)

    def _imported(self, ident: str, task: str) -> None:
        """The image is active for a moment before its task has written down that it is done."""
        self._settle(ident, "")
        self._cloud.world.update("image-task", task, status="success")

    def _take_in(self, record: Record, uri: str | None) -> None:
        if self._cloud.import_faults:
            raise Refusal(500, self._cloud.import_faults.pop(0))
        if uri:
            self._store.receive(record, self._fetch(uri), Direction.IN)
        self._store.activate(record)

    def _fail(self, ident: str, task: str, why: str) -> None:
        self._cloud.world.update("image", ident, status="queued")
        self._store.path(ident).unlink(missing_ok=True)
        self._settle(ident, "fast")
        self._cloud.world.update("image-task", task, status="failure", message=why)

    def _settle(self, ident: str, failed: str) -> None:
        record: Record | None = self._cloud.world.get("image", ident)
        if record:
            extra: dict[str, Any] = {
                **record["extra"],
                "os_glance_importing_to_stores": "",
                "os_glance_failed_import": failed,
            }
            extra.pop("os_glance_import_task", None)
            self._cloud.world.update("image", ident, extra=extra)

    def _fetch(self, uri: str) -> Iterator[bytes]:
        request = Request(uri, headers={"User-Agent": "Python-urllib/3.11"})  # noqa: S310  # _may_pull looked
        try:
            with urlopen(request, timeout=60) as answer:  # noqa: S310  # _may_pull looked
                expected = answer.headers.get("Content-Length")
                seen = 0
                while block := answer.read(1 << 20):
                    if self._cloud.stopped():
                        raise InterruptedError
                    seen += len(block)
                    yield block
        except URLError as e:
            raise Refusal(500, f"The download failed: {e.reason}") from e
        if expected is not None and seen != int(expected):
            raise Refusal(500, f"Expected {expected} bytes, got {seen}")
