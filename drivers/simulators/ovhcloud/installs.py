"""Installations of a customer's own image: a real pull into memory, checks, bytes on the disk."""

import base64
import binascii
import hashlib
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from drivers.simulators.faults import Direction
from drivers.simulators.ovhcloud.estate import INSTALL_MINUTES, Estate, Refusal, Server, Task
from drivers.simulators.qcow2 import Qcow2
from drivers.simulators.sparse import is_zero

CUSTOMIZATIONS = {
    "configDriveMetadata", "configDriveUserData", "efiBootloaderPath", "enableLacpBonding",
    "hostname", "httpHeaders", "imageCheckSum", "imageCheckSumType", "imageType", "imageURL",
    "language", "nutanixConfiguration", "postInstallationScript",
    "postInstallationScriptExtension", "sshKey",
}  # fmt: skip
_SUMS = {"md5", "sha1", "sha256", "sha512"}
_RESERVED_MIB = 3 * 1024
_CONFIG_DRIVE = 64 << 10
_PIECE = 1 << 20
_TIMEOUT = 20
_STEPS = ("Preparing disks", "Fetching the image", "Writing the image", "Rebooting the server")


class Broken(Exception):
    """An installation that ends in customerError; its words."""


def begin(estate: Estate, server: Server, wish: dict[str, Any]) -> Task:
    """Check what can be checked at once, and begin."""
    custom = _checked(server, wish)
    if estate.busy(server.name):
        raise Refusal(409, "An action is already pending on this server")
    task = estate.task(server.name, "reinstallServer")
    task.status = "todo"
    estate.installs[server.name] = [
        {"comment": each, "error": None, "status": "todo"} for each in _STEPS
    ]
    estate.after(1, lambda: _started(estate, server, task, custom))
    return task


def _checked(server: Server, wish: dict[str, Any]) -> dict[str, Any]:
    if unknown := set(wish) - {"operatingSystem", "customizations", "storage", "properties"}:
        raise Refusal(400, f"[{min(unknown)}] is not a known property", code="INVALID_ARGUMENT")
    if wish.get("operatingSystem") != "byoi_64":
        raise Refusal(400, "The operatingSystem is not compatible with this server")
    custom = dict(wish.get("customizations") or {})
    if unknown := set(custom) - CUSTOMIZATIONS:
        raise Refusal(400, f"[{min(unknown)}] is not a known customization")
    if not str(custom.get("imageURL", "")).startswith(("http://", "https://")):
        raise Refusal(400, "imageURL is mandatory for byoi_64")
    if custom.get("imageType") not in {"raw", "qcow2"}:
        raise Refusal(400, "imageType must be one of qcow2, raw")
    if ("imageCheckSum" in custom) is not ("imageCheckSumType" in custom):
        raise Refusal(400, "imageCheckSum and imageCheckSumType must be both set or both empty")
    if custom.get("imageCheckSumType", "sha256") not in _SUMS:
        raise Refusal(400, "imageCheckSumType must be one of md5, sha1, sha256, sha512")
    if "uefi" in server.boot_mode and not custom.get("efiBootloaderPath"):
        raise Refusal(400, "efiBootloaderPath is mandatory on a server that boots by UEFI")
    return custom


def _started(estate: Estate, server: Server, task: Task, custom: dict[str, Any]) -> None:
    """The server leaves what it ran; its disk goes first of all."""
    task.status = "doing"
    estate.halt(server)
    estate.wipe(server)
    server.efi = custom.get("efiBootloaderPath")
    threading.Thread(
        target=_work, args=(estate, server, task, custom), name=f"install-{server.id}", daemon=True
    ).start()


def _work(estate: Estate, server: Server, task: Task, custom: dict[str, Any]) -> None:
    place = estate.folder / f"image-{server.id}"
    try:
        _fetch(estate, server, custom, place)
        _write(estate, server, custom, place)
    except (Broken, OSError, ValueError) as e:
        with estate.changing():
            estate.ended(task, "customerError", f"Installation failed: {e}")
            estate.installs.pop(server.name, None)
        return
    finally:
        place.unlink(missing_ok=True)

    def done() -> None:
        server.os = "byoi_64"
        estate.installs.pop(server.name, None)
        estate.boot(server)
        estate.ended(task)

    with estate.changing():
        _progress(estate, server, 3)
        estate.after(INSTALL_MINUTES, done)


def _progress(estate: Estate, server: Server, step: int) -> None:
    for number, each in enumerate(estate.installs.get(server.name, [])):
        each["status"] = "done" if number < step else "doing" if number == step else "todo"


def _fetch(estate: Estate, server: Server, custom: dict[str, Any], place: Path) -> None:
    """The whole file into memory: what is too large for it is refused."""
    _progress(estate, server, 1)
    room = (server.memory_mib - _RESERVED_MIB) << 20
    request = urllib.request.Request(  # noqa: S310  # http and https alone come this far
        custom["imageURL"], headers=dict(custom.get("httpHeaders") or {})
    )
    digest = hashlib.new(custom.get("imageCheckSumType", "sha256"), usedforsecurity=False)
    at = 0
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer, place.open("wb") as file:  # noqa: S310  # as above
        while piece := answer.read(_PIECE):
            data = estate.faults.passed(Direction.IN, at, piece)
            at += len(data)
            if at >= room:
                raise Broken("the image does not fit into the memory of the server")
            digest.update(data)
            file.write(data)
        if answer.length:
            raise Broken("the image broke off")
    wished = custom.get("imageCheckSum")
    if wished is not None and digest.hexdigest() != str(wished).lower():
        raise Broken("the checksum of the image is not the given one")


def _write(estate: Estate, server: Server, custom: dict[str, Any], place: Path) -> None:
    _progress(estate, server, 2)
    with place.open("rb") as file, estate.file(server).open("r+b") as disk:
        if custom["imageType"] == "qcow2":
            image = Qcow2(file)
            if image.size > server.disk:
                raise Broken("the image is larger than the disk")
            parts = image.clusters()
        else:
            if file.read(4) == b"QFI\xfb":
                raise Broken("the image is not of the given type")
            if place.stat().st_size > server.disk:
                raise Broken("the image is larger than the disk")
            parts = _pieces(place)
        for at, data in parts:
            disk.seek(at)
            disk.write(data)
        _config_drive(server, custom, disk)


def _pieces(place: Path) -> Iterator[tuple[int, bytes]]:
    """What is not zero of a raw image."""
    with place.open("rb") as file:
        at = 0
        while data := file.read(64 << 10):
            if not is_zero(data):
                yield at, data
            at += len(data)


def _config_drive(server: Server, custom: dict[str, Any], disk: Any) -> None:
    """What is given besides the image, at the disk's end, after the image's own bytes."""
    told = {
        key: str(custom[key])
        for key in ("hostname", "sshKey", "configDriveUserData")
        if custom.get(key)
    }
    if not told:
        return
    if "configDriveUserData" in told:
        try:
            user_data = base64.b64decode(told["configDriveUserData"], validate=True)
        except binascii.Error as e:
            raise Broken("configDriveUserData is not base64") from e
        told["configDriveUserData"] = user_data.decode(errors="replace")
    text = "config-2\n" + "".join(f"{key}: {value}\n" for key, value in told.items())
    data = text.encode().ljust(_CONFIG_DRIVE, b"\0")[:_CONFIG_DRIVE]
    disk.seek(server.disk - _CONFIG_DRIVE)
    disk.write(data)
