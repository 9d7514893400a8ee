"""The calls below /nodes/{node}/storage: what is stored, and how images come in."""

import hashlib
import re
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote

from drivers.simulators.faults import Direction
from drivers.simulators.proxmox.params import Fails, Refused, invalid, size_bytes
from drivers.simulators.proxmox.routes import Ask, route
from drivers.simulators.proxmox.storage import IMPORT_NAME, Volume
from drivers.simulators.proxmox.tasks import Worker
from drivers.simulators.sparse import is_zero

_S = "/nodes/{node}/storage"
_SUMS = ("md5", "sha1", "sha224", "sha256", "sha384", "sha512")
_CHUNK = 1 << 20
_PULL_TIMEOUT = 10


def list_storages(ask: Ask) -> list[dict[str, Any]]:
    given = ask.take(optional="content enabled format storage target")
    return [
        _storage(ask, name)
        for name in ask.node.storages.names()
        if _visible(ask, name)
        and given.get("content", "images") in ask.node.storages.contents(name).split(",")
    ]


def storage_status(ask: Ask) -> dict[str, Any]:
    _audit(ask)
    return _storage(ask, ask.at["storage"])


def list_content(ask: Ask) -> list[dict[str, Any]]:
    _audit(ask)
    given = ask.take(optional="content vmid")
    return [
        _shown(volume)
        for volume in ask.node.storages.volumes(ask.at["storage"])
        if given.get("content") in {None, volume.content}
        and ("vmid" not in given or str(volume.vmid) == given["vmid"])
    ]


def get_volume(ask: Ask) -> dict[str, Any]:
    _audit(ask)
    volume = ask.node.storages.volume(_volid(ask))
    shown = _shown(volume)
    return {key: shown[key] for key in ("format", "size", "used")} | {"path": volume.path}


def allocate(ask: Ask) -> str:
    storage = ask.at["storage"]
    ask.need("Datastore.AllocateSpace", path=f"/storage/{storage}")
    given = ask.take("vmid", "filename", "size", optional="format")
    try:
        size = size_bytes(given["size"])
    except ValueError as error:
        raise invalid(size="value does not match the regex pattern") from error
    size = size if given["size"][-1].isalpha() else size << 10
    try:
        volume = ask.node.storages.allocate_named(
            storage, int(given["vmid"]), given["filename"], size
        )
    except Fails as error:
        raise Refused(500, str(error)) from error
    return volume.volid


def delete_volume(ask: Ask) -> str:
    volid = _volid(ask)
    ask.need("Datastore.Allocate", path=f"/storage/{ask.at['storage']}")
    ask.take(optional="delay")
    volume = ask.node.storages.volume(volid)

    def work(worker: Worker) -> None:
        if str(volume.file) in ask.node.exports():
            raise Fails(f"cannot remove '{volume.path}': dataset is busy")
        ask.node.storages.free(volid)
        worker.log(f"Removed volume '{volid}'")

    subject = f"{volume.vmid}@{volume.storage}" if volume.vmid else volume.storage
    return ask.node.tasks.spawn("imgdel", subject, ask.caller.name, work)


# -- images come in ----------------------------------------------------------------------------


def download_url(ask: Ask) -> str:
    storage = ask.at["storage"]
    ask.need("Datastore.AllocateTemplate", path=f"/storage/{storage}")
    if not ask.may("/", "Sys.Audit"):
        ask.need("Sys.AccessNetwork", path=f"/nodes/{ask.node.name}")
    given = ask.take(
        "content",
        "filename",
        "url",
        optional="checksum checksum-algorithm compression verify-certificates",
    )
    if not re.fullmatch(r"https?://.*", given["url"]):
        raise invalid(url="value does not match the regex pattern")
    target = _target(ask, given, given["filename"])
    verify = given.get("verify-certificates", "1") == "1"

    def work(worker: Worker) -> None:
        worker.log(f"downloading {given['url'].partition('?')[0]} to {target.path}")
        part = _part(target, worker)
        try:
            with part.open("wb") as file:
                _pull(ask, given["url"], file, verify=verify, worker=worker)
            _landed(part, target, given)
        finally:
            part.unlink(missing_ok=True)
        worker.log("download of '" + given["filename"] + "' finished")

    return ask.node.tasks.spawn("download", target.file.name, ask.caller.name, work)


def upload(ask: Ask) -> str:
    storage = ask.at["storage"]
    ask.need("Datastore.AllocateTemplate", path=f"/storage/{storage}")
    given = ask.take("content", optional="checksum checksum-algorithm")
    if ask.upload is None:
        raise invalid(filename="property is missing and it is not optional")
    received = ask.upload.file
    target = _target(ask, given, ask.upload.filename)
    room = _room(ask, storage, received.stat().st_size)
    staged = target.file.with_name(f"{target.file.name}.{received.name}.tmp")
    received.rename(staged)  # the call's own copy goes when the call ends

    def work(worker: Worker) -> None:
        worker.log(f"starting file import from: /var/tmp/pveupload-{received.name[7:]}")
        worker.log(f"target node: {ask.node.name}")
        worker.log(f"target file: {target.path}")
        try:
            if room:
                raise Fails(room)
            _landed(staged, target, given)
        finally:
            staged.unlink(missing_ok=True)
        worker.log("finished file import successfully")

    return ask.node.tasks.spawn("imgcopy", "", ask.caller.name, work)


def _pull(ask: Ask, url: str, file: IO[bytes], *, verify: bool, worker: Worker) -> None:
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    faults, done = ask.node.faults, 0
    try:
        with opener.open(url, timeout=_PULL_TIMEOUT) as answer:
            length = int(answer.headers.get("Content-Length", "0"))
            if room := _room(ask, ask.at["storage"], length):
                raise Fails(room)
            while data := answer.read(_CHUNK):
                worker.wait(faults.transfer_seconds(len(data)))
                _put(file, faults.passed(Direction.IN, done, data))
                done += len(data)
            file.truncate(done)
    except (OSError, urllib.error.URLError) as error:
        raise Fails(f"download failed: {getattr(error, 'reason', error)}") from error
    if length and done != length:
        raise Fails(f"download failed: got {done} of {length} bytes")


def _landed(part: Path, target: Volume, given: dict[str, str]) -> None:
    """Check the sum as Proxmox VE does and put the file in its place."""
    if "checksum" in given:
        algorithm = given["checksum-algorithm"]
        with part.open("rb") as file:
            found = hashlib.file_digest(file, algorithm).hexdigest()
        if found != given["checksum"].lower():
            raise Fails(f"checksum mismatch: got '{found}' != expect '{given['checksum']}'")
    part.replace(target.file)


def _target(ask: Ask, given: dict[str, str], filename: str) -> Volume:
    """The volume that a download or upload makes; 400 for what it may not be."""
    storage, content = ask.at["storage"], given["content"]
    if ask.node.storages.kind(storage) != "dir":
        raise Refused(500, f"storage '{storage}' is not configured for content-type '{content}'")
    algorithm = given.get("checksum-algorithm")
    if (algorithm is None) != ("checksum" not in given):
        missing = "checksum-algorithm" if algorithm is None else "checksum"
        raise invalid(**{missing: f"missing property - '{missing}' is required"})
    if algorithm is not None and algorithm not in _SUMS:
        raise invalid(**{"checksum-algorithm": f"value '{algorithm}' is not in the enumeration"})
    if content not in {"iso", "vztmpl", "import"}:
        raise invalid(content=f"value '{content}' does not have a value in the enumeration")
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", filename.rsplit("/", 1)[-1])
    if len(name) > 255:
        raise invalid(filename="value may only be 255 characters long")
    if content == "import" and not IMPORT_NAME.fullmatch(name):
        raise invalid(filename="invalid filename or wrong extension")
    folder = ask.node.folder / content
    return Volume(
        volid=f"{storage}:{content}/{name}",
        storage=storage,
        content=content,
        format=name.rpartition(".")[2],
        path=f"/var/lib/vz/{content}/{name}",
        file=folder / name,
    )


def _room(ask: Ask, storage: str, length: int) -> str:
    try:
        ask.node.storages.room(storage, length)
    except Fails as error:
        return str(error)
    return ""


def _part(target: Volume, worker: Worker) -> Path:
    return target.file.with_name(f"{target.file.name}.{worker.task.pid}.tmp")


def _put(file: IO[bytes], data: bytes) -> None:
    """Write, but leave holes for zeros: a raw image may be mostly empty."""
    if not is_zero(data):
        file.write(data)
    else:
        file.seek(len(data), 1)


# -- inside ------------------------------------------------------------------------------------


def _visible(ask: Ask, storage: str) -> bool:
    path = f"/storage/{storage}"
    return ask.may(path, "Datastore.Audit") or ask.may(path, "Datastore.AllocateSpace")


def _audit(ask: Ask) -> None:
    if not _visible(ask, ask.at["storage"]):
        ask.need("Datastore.Audit", path=f"/storage/{ask.at['storage']}")
    ask.node.storages.kind(ask.at["storage"])


def _storage(ask: Ask, name: str) -> dict[str, Any]:
    storages = ask.node.storages
    total, used = storages.sizes[name], storages.used(name)
    return {
        "storage": name,
        "type": storages.kind(name),
        "content": storages.contents(name),
        "active": 1,
        "enabled": 1,
        "shared": 0,
        "total": total,
        "used": used,
        "avail": max(0, total - used),
        "used_fraction": used / total if total else 1.0,
    }


def _shown(volume: Volume) -> dict[str, Any]:
    status = volume.file.stat()
    out: dict[str, Any] = {
        "volid": volume.volid,
        "content": volume.content,
        "format": volume.format,
        "size": status.st_size if volume.content == "import" else volume.size,
        "used": status.st_blocks * 512,
        "ctime": int(status.st_ctime),
    }
    return out | ({"vmid": volume.vmid} if volume.vmid is not None else {})


def _volid(ask: Ask) -> str:
    volume = unquote(ask.at["volume"])
    return volume if ":" in volume else f"{ask.at['storage']}:{volume}"


ROUTES = (
    route("GET", _S, list_storages),
    route("GET", _S + "/{storage}/status", storage_status),
    route("GET", _S + "/{storage}/content", list_content),
    route("POST", _S + "/{storage}/content", allocate),
    route("GET", _S + "/{storage}/content/{volume*}", get_volume),
    route("DELETE", _S + "/{storage}/content/{volume*}", delete_volume),
    route("POST", _S + "/{storage}/download-url", download_url),
    route("POST", _S + "/{storage}/upload", upload),
)
