"""Images v2: records with free properties, real bytes with digests, and Range on the way out."""

import re
from typing import Any

from drivers.simulators.faults import Direction
from drivers.simulators.openstack.cloud import Cloud, mine, page
from drivers.simulators.openstack.image_store import ImageStore
from drivers.simulators.openstack.imports import Imports
from drivers.simulators.openstack.wire import Call, Refusal, Reply, Routes
from drivers.simulators.openstack.world import Record, stamp

VERSIONS = ("v2.17", "v2.16", "v2.15", "v2.13", "v2.12", "v2.11", "v2.10", "v2.9", "v2.8", "v2.7")
BASE = (
    *("id", "name", "status", "visibility", "protected", "os_hidden", "checksum", "size"),
    *("virtual_size", "container_format", "disk_format", "min_disk", "min_ram", "owner", "tags"),
    *("os_hash_algo", "os_hash_value", "created_at", "updated_at", "self", "file", "schema"),
)
FORMATS = {"raw", "qcow2", "vhd", "vhdx", "vmdk", "vdi", "iso", "ploop", "ami", "ari", "aki"}


class Glance:
    """The image service."""

    def __init__(self, cloud: Cloud, store: ImageStore) -> None:
        self._cloud = cloud
        self._world = cloud.world
        self._store = store
        self.imports = Imports(cloud, store)
        self.routes = Routes()
        add = self.routes.add
        add("GET", "/image", self._versions)
        add("GET", "/image/versions", self._versions)
        add("GET", "/image/v2/images", self._list)
        add("POST", "/image/v2/images", self._create)
        add("GET", "/image/v2/images/{ident}", self._show)
        add("PATCH", "/image/v2/images/{ident}", self._patch)
        add("DELETE", "/image/v2/images/{ident}", self._delete)
        add("PUT", "/image/v2/images/{ident}/file", self._upload)
        add("GET", "/image/v2/images/{ident}/file", self._download)
        add("PUT", "/image/v2/images/{ident}/stage", self._stage)
        add("POST", "/image/v2/images/{ident}/import", self.imports.start)
        add("GET", "/image/v2/images/{ident}/tasks", self.imports.tasks)
        add("PUT", "/image/v2/images/{ident}/tags/{tag}", self._tag)
        add("DELETE", "/image/v2/images/{ident}/tags/{tag}", self._untag)
        add("GET", "/image/v2/info/import", self.imports.info)
        add("GET", "/image/v2/info/stores", self._stores)
        self._world.action("image.delete", self._gone)

    # endpoints

    def _versions(self, call: Call) -> Reply:
        versions = [
            {
                "id": ident,
                "status": "CURRENT" if ident == VERSIONS[0] else "SUPPORTED",
                "links": [{"rel": "self", "href": f"{call.base}/image/v2/"}],
            }
            for ident in VERSIONS
        ]
        return Reply(status=300, body={"versions": versions})

    def _list(self, call: Call) -> Reply:
        images = sorted(
            mine(self._world.all("image"), call), key=lambda r: (r["created_at"], r["id"])
        )[::-1]
        tags = [value for key, value in call.query if key == "tag"]
        skip = {"limit", "marker", "tag", "sort", "sort_key", "sort_dir"}
        wanted = {k: v for k, v in call.query if k not in skip}
        chosen = []
        for record in images:
            shown = self._store.shown(record)
            if all(self._matches(shown, k, v) for k, v in wanted.items()) and set(tags) <= set(
                record["tags"]
            ):
                chosen.append(record)
        refuse = lambda text: Refusal(400, text)  # noqa: E731  # one word for one case
        if not call.one("limit"):
            call.query.append(("limit", "25"))  # glance's limit_param_default
        records, following = page(chosen, call, "/v2/images", self._cloud.knobs.max_page, refuse)
        body = {
            "images": [self._store.shown(r) for r in records],
            "first": "/v2/images",
            "schema": "/v2/schemas/images",
        }
        return Reply(status=200, body=body | ({"next": following} if following else {}))

    @staticmethod
    def _matches(shown: dict[str, Any], key: str, value: str) -> bool:
        if key in {"size_min", "size_max", "member_status"}:
            return True
        have = shown.get(key)
        if key in {"protected", "os_hidden"}:
            return str(have).lower() == value.lower()
        if value.startswith("in:"):
            return str(have) in value[3:].split(",")
        return have == value

    def _create(self, call: Call) -> Reply:
        wish = call.json()
        ident = wish.pop("id", None)
        if ident is not None:
            if not re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", str(ident)):
                raise Refusal(400, f"Invalid image id format: {ident}")
            if self._world.get("image", ident) or self._world.get("deleted-image", ident):
                raise Refusal(409, f"Image ID {ident} already exists!")
        if (form := wish.get("disk_format")) not in {*FORMATS, None}:
            raise Refusal(400, f"Invalid value '{form}' for parameter 'disk_format'")
        if len(wish.get("name") or "") > 255:
            raise Refusal(400, "Provided object does not match schema 'image': name is too long")
        fields = {key: wish.pop(key) for key in list(wish) if key in BASE and key != "name"}
        if readonly := set(fields) & {"status", "size", "checksum", "owner", "created_at", "self"}:
            raise Refusal(403, f"Attribute '{min(readonly)}' is read-only.")
        name = wish.pop("name", None)
        record = self._store.add(call.project, name, ident=ident, extra=wish, **fields)
        headers = {
            "Location": f"{call.base}/image/v2/images/{record['id']}",
            "OpenStack-image-import-methods": (
                "glance-direct,web-download,glance-download,copy-image"
            ),
        }
        return Reply(status=201, body=self._store.shown(record), headers=headers)

    def _show(self, call: Call, ident: str) -> Reply:
        return Reply(status=200, body=self._store.shown(self._store.image(ident, call)))

    def _patch(self, call: Call, ident: str) -> Reply:
        record = self._store.image(ident, call)
        if "openstack-images-v2" not in call.headers.get("Content-Type", ""):
            raise Refusal(415, "Unsupported Content-Type")
        extra, fields = dict(record["extra"]), dict[str, Any]()
        for change in call.json().get("", []):
            key = change["path"].lstrip("/").replace("~1", "/").replace("~0", "~")
            if change["op"] == "remove":
                if key not in extra:
                    raise Refusal(409, f"Property {key} does not exist.")
                del extra[key]
            elif key in {"name", "visibility", "protected", "min_disk", "min_ram", "tags"}:
                fields[key] = change["value"]
            elif key in BASE or key.startswith("os_glance"):
                raise Refusal(403, f"Attribute '{key}' is read-only.")
            elif change["op"] == "replace" and key not in extra:
                raise Refusal(409, f"Property {key} does not exist.")
            else:
                extra[key] = change["value"]
        self._world.update("image", ident, extra=extra, updated_at=stamp() + "Z", **fields)
        return Reply(status=200, body=self._store.shown(self._store.image(ident, call)))

    def _delete(self, call: Call, ident: str) -> Reply:
        record = self._store.image(ident, call)
        if record["protected"]:
            raise Refusal(403, f"Image {ident} is protected and cannot be deleted.")
        if record.get("in_use"):
            raise Refusal(409, f"Image {ident} could not be deleted because it is in use")
        if record["status"] == "active" and record["extra"].get("os_glance_import_task"):
            raise Refusal(
                500,
                "The server has either erred or is incapable of performing the"
                " requested operation.",
            )
        self._gone(ident)
        return Reply(status=204)

    def _gone(self, ident: str) -> None:
        self._world.drop("image", ident)
        self._world.put("deleted-image", {"id": ident})  # an id is given once for all time
        self._store.path(ident).unlink(missing_ok=True)

    def _upload(self, call: Call, ident: str) -> Reply:
        record = self._receivable(call, ident)
        self._world.update("image", ident, status="saving")
        try:
            self._store.receive(record, call.body.blocks(), Direction.IN)
            self._store.activate(record)
        except (ConnectionError, TimeoutError):
            self._world.update("image", ident, status="queued")
            self._store.path(ident).unlink(missing_ok=True)
            raise
        except Refusal:
            self._world.update("image", ident, status="queued")
            raise
        return Reply(status=204)

    def _stage(self, call: Call, ident: str) -> Reply:
        record = self._receivable(call, ident)
        self._store.receive(record, call.body.blocks(), Direction.IN)
        self._world.update("image", ident, status="uploading")
        return Reply(status=204)

    def _receivable(self, call: Call, ident: str) -> Record:
        record = self._store.image(ident, call)
        if call.headers.get("Content-Type") != "application/octet-stream":
            raise Refusal(415, "Unsupported Content-Type")
        if record["status"] != "queued":
            raise Refusal(
                409, f"Image status transition from {record['status']} to saving is not allowed"
            )
        if not record["disk_format"] or not record["container_format"]:
            raise Refusal(
                400, "Properties disk_format, container_format must be set prior to saving data."
            )
        return record

    def _download(self, call: Call, ident: str) -> Reply:
        record = self._store.image(ident, call)
        if record["status"] == "queued":
            return Reply(status=204)
        if record["status"] != "active":
            raise Refusal(403, "The requested image has not been uploaded or is in a wrong state")
        size = record["size"]
        headers = {"Content-Type": "application/octet-stream"}
        if record["checksum"]:
            headers["Content-MD5"] = record["checksum"]
        start, end, status = 0, size, 200
        asked = call.headers.get("Range")
        if asked and size:
            match = re.fullmatch(r"bytes=(\d*)-(\d*)", asked)
            if not match or not (match[1] or match[2]):
                raise Refusal(416, f"Invalid range request: {asked}")
            start = int(match[1]) if match[1] else max(0, size - int(match[2]))
            end = min(size, int(match[2]) + 1) if match[1] and match[2] else size
            if start >= end:
                raise Refusal(416, f"Invalid range {asked} for image of size {size}")
            status = 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        through = lambda at, data: self._cloud.faults.passed(Direction.OUT, at, data)  # noqa: E731  # the line's own name for it
        return Reply(
            status=status,
            headers=headers,
            file=self._store.path(ident) if size else None,
            body=None if size else b"",
            start=start,
            length=end - start,
            through=through,
            cut_after=self._cloud.world.random.randrange(1, end - start)
            if self.cut_downloads() and end - start > 1
            else None,
        )

    def cut_downloads(self) -> bool:
        """Whether this download breaks in the middle."""
        left = self._cloud.step_scale.get("cut downloads", 0)
        if left:
            self._cloud.step_scale["cut downloads"] = left - 1
        return bool(left)

    def _tag(self, call: Call, ident: str, tag: str) -> Reply:
        record = self._store.image(ident, call)
        if tag not in record["tags"]:
            self._world.update("image", ident, tags=[*record["tags"], tag])
        return Reply(status=204)

    def _untag(self, call: Call, ident: str, tag: str) -> Reply:
        record = self._store.image(ident, call)
        if tag not in record["tags"]:
            raise Refusal(404, f"Failed to find tag {tag}")
        self._world.update("image", ident, tags=[t for t in record["tags"] if t != tag])
        return Reply(status=204)

    def _stores(self, call: Call) -> Reply:
        del call
        stores = [{"id": "fast", "default": "true"}, {"id": "slow"}]
        return Reply(status=200, body={"stores": stores})
