"""Images of a simulated oned: fetched from an address, made empty, cloned, changed, deleted."""

import hashlib
import http.client
import re
import shutil
import struct
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

from drivers.simulators.faults import Direction
from drivers.simulators.opennebula import bitmaps, views
from drivers.simulators.opennebula import oned as one
from drivers.simulators.opennebula.oned import MIB, Image, Oned, Refusal, User
from drivers.simulators.opennebula.template import Malformed, Template, parsed, single
from drivers.simulators.qcow2 import Qcow2
from drivers.simulators.sparse import copy_sparse

_TYPES = {"OS": 0, "CDROM": 1, "DATABLOCK": 2, "KERNEL": 3, "RAMDISK": 4, "CONTEXT": 5}
_FORBIDDEN = re.compile(r"[/&\"]")
_PROBES = 4  # GETs that are given up in the middle, before the one that is read to its end
_PART = 1 << 20


def found(site: Oned, call: str, number: int) -> Image:
    if number not in site.images:
        text = f"[{call}] Error getting image [{number}]."
        raise Refusal(one.NO_EXISTS, text, number)
    return site.images[number]


def mine(site: Oned, user: User, call: str, number: int, right: str = "MANAGE") -> Image:
    image = found(site, call, number)
    if user.id not in {image.uid, 0}:
        raise Refusal(
            one.AUTHORIZATION,
            f"[{call}] User [{user.id}] : Not authorized to perform {right} IMAGE [{number}].",
            number,
        )
    return image


def pool(site: Oned, user: User, flag: int, start: int, end: int) -> str:
    rows = [i for i in site.images.values() if visible(user, i.uid, flag)]
    shown = paged(rows, start, end)
    return f"<IMAGE_POOL>{''.join(views.image(site, each) for each in shown)}</IMAGE_POOL>"


def info(site: Oned, user: User, number: int, _decrypt: bool = False) -> str:  # noqa: FBT001, FBT002  # the wire's shape
    return views.image(site, mine(site, user, "one.image.info", number, "USE"))


# -- making ------------------------------------------------------------------------------------


def allocate(site: Oned, user: User, text: str, datastore: int, _check: bool = True) -> int:  # noqa: FBT001, FBT002  # the wire's shape
    """Takes the lock itself, once the size is known."""
    call = "one.image.allocate"
    try:
        template = parsed(text)
    except Malformed as e:
        message = f"[{call}] Error allocating a new image. {e}"
        raise Refusal(one.INTERNAL, message) from e
    name = single(template, "NAME")
    _named(call, name)
    if datastore != one.IMAGE_DS:
        raise Refusal(one.NO_EXISTS, f"[{call}] Error getting datastore [{datastore}].", datastore)
    path, kind = single(template, "PATH"), single(template, "TYPE", "OS").upper()
    size = _probed(path) if path else int(single(template, "SIZE", "0") or 0)
    if size <= 0:
        message = f"[{call}] Error allocating a new image. Bad SIZE in template."
        raise Refusal(one.ALLOCATE, message)
    with site.changing():
        _unique(site, call, user, name)
        _room(site, call, user, size)
        image = Image(
            id=site.number("image"),
            uid=user.id,
            name=name,
            type=_TYPES.get(kind, 0),
            persistent=single(template, "PERSISTENT").upper() in {"YES", "1"},
            size=size,
            path=path,
            format="raw" if path else single(template, "FORMAT", "raw").lower(),
            template=_without(template, "NAME", "PATH", "TYPE", "SIZE", "FORMAT", "PERSISTENT"),
            regtime=int(time.time()),
        )
        site.images[image.id] = image
        work = (lambda: _fetch(site, image)) if path else (lambda: _make_empty(site, image))
        site.later(site.profile.step_seconds, work)
    return image.id


def clone(site: Oned, user: User, number: int, name: str, datastore: int = -1) -> int:
    call = "one.image.clone"
    source = mine(site, user, call, number, "USE")
    _named(call, name)
    _unique(site, call, user, name)
    if datastore not in {-1, one.IMAGE_DS}:
        raise Refusal(one.NO_EXISTS, f"[{call}] Error getting datastore [{datastore}].", datastore)
    if source.state not in {one.READY, one.USED, one.CLONE}:
        raise Refusal(one.ACTION, f"[{call}] Cannot clone image [{number}] in its state.", number)
    _room(site, call, user, source.size)
    image = Image(
        id=site.number("image"),
        uid=user.id,
        name=name,
        type=source.type,
        size=source.size,
        path=source.source,
        format=source.format,
        template={key: list(values) for key, values in source.template.items()},
        regtime=int(time.time()),
    )
    site.images[image.id] = image
    source.clones += 1
    source.state = one.CLONE if source.state == one.READY else source.state
    site.later(site.profile.step_seconds, lambda: _copy(site, source, image))
    return image.id


def _named(call: str, name: str) -> None:
    if not name or len(name) > 128 or _FORBIDDEN.search(name):
        what = "NAME cannot be empty" if not name else "Invalid NAME"
        raise Refusal(one.INTERNAL, f"[{call}] {what}.")


def _unique(site: Oned, call: str, user: User, name: str) -> None:
    for other in site.images.values():
        if other.uid == user.id and other.name == name:
            what = "cloning" if call.endswith("clone") else "allocating a new"
            message = f"[{call}] Error {what} image. NAME is already taken by IMAGE {other.id}."
            raise Refusal(one.ALLOCATE, message, other.id)


def _room(site: Oned, call: str, user: User, size: int) -> None:
    used = views.datastore_use(site, user.id)
    for key, more in (("IMAGES", 1), ("SIZE", size)):
        limit = user.datastore_quota.get(key, -1)
        if limit >= 0 and used[key] + more > limit:
            raise Refusal(
                one.AUTHORIZATION,
                f"[{call}] user [{user.id}] limit of {limit} reached for {key} quota in DATASTORE"
                f" with ID {one.IMAGE_DS}.",
            )
    if size > site.free_mib:
        raise Refusal(one.ALLOCATE, f"[{call}] Not enough space in datastore")


# -- what comes later --------------------------------------------------------------------------


def _ended(site: Oned, image: Image, error: str = "") -> None:
    if image.id not in site.images or image.state != one.LOCKED:
        return
    image.state = one.ERROR if error else one.READY
    if error:
        stamp = time.strftime("%a %b %d %H:%M:%S %Y", time.gmtime())
        image.template["ERROR"] = [f"{stamp} : Error copying image in the datastore: {error}"]


def _make_empty(site: Oned, image: Image) -> None:
    image.source = site.new_source(image.datastore)
    with site.file(image.source).open("wb") as file:
        file.truncate(image.size * MIB)
    _ended(site, image)


def _copy(site: Oned, source: Image, image: Image) -> None:
    """Beneath a clone's name lies what its disk shows; a guest's qcow2 is kept raw inside."""
    image.source = site.new_source(image.datastore)
    origin, target = site.file(source.source), site.file(image.source)
    if _is_qcow2(origin):
        with origin.open("rb") as reading, target.open("wb") as writing:
            inside = Qcow2(reading)
            writing.truncate(inside.size)
            for offset, data in inside.clusters():
                writing.seek(offset)
                writing.write(data)
    else:
        copy_sparse(origin, target)
    source.clones -= 1
    if not source.clones and source.state == one.CLONE:
        source.state = one.READY
    if image.id not in site.images:
        target.unlink()
    _ended(site, image)


def _fetch(site: Oned, image: Image) -> None:
    """Off the lock: the address may be slow. Several GETs are given up before one is read."""

    def fetch() -> None:
        source = site.new_source(image.datastore)
        error = ""
        try:
            for _ in range(_PROBES):
                _glimpse(image.path)
            _download(site, image, site.file(source))
        except (OSError, http.client.HTTPException, ValueError) as e:
            error = str(e) or type(e).__name__
        with site.changing():
            image.source = "" if error else source
            if image.id not in site.images:
                site.file(source).unlink(missing_ok=True)
            _ended(site, image, error)

    threading.Thread(target=fetch, name=f"import-{image.id}", daemon=True).start()


def _download(site: Oned, image: Image, target: Path) -> None:
    answer, connection = _asked("GET", image.path)
    md5 = hashlib.md5(usedforsecurity=False)
    with target.open("wb") as file:
        offset = 0
        while part := answer.read(_PART):
            data = site.faults.passed(Direction.IN, offset, part)
            md5.update(data)
            file.write(data)
            offset += len(part)
            if wait := site.faults.transfer_seconds(len(part)):
                time.sleep(wait)
        length = answer.getheader("Content-Length")
    connection.close()
    if length is not None and offset != int(length):
        raise ValueError(f"{offset} of {length} bytes came")
    if site.faults.disk_full:
        raise OSError(28, "No space left on device")
    wanted = single(image.template, "MD5")
    if wanted and wanted != md5.hexdigest():
        raise ValueError(f"Hash mismatch. md5 is {md5.hexdigest()}, should be {wanted}")
    image.format = "qcow2" if _is_qcow2(target) else "raw"


def _probed(path: str) -> int:
    """What `allocate` blocks on: the size behind an address, in MiB, from its first bytes."""
    try:
        head, connection = _asked("HEAD", path)
        length = int(head.getheader("Content-Length") or 0)
        connection.close()
        first = _glimpse(path)
    except (OSError, http.client.HTTPException, ValueError) as e:
        message = "[one.image.allocate] Cannot determine Image SIZE."
        raise Refusal(one.ALLOCATE, f"{message} {type(e).__name__}") from e
    size = struct.unpack_from(">Q", first, 24)[0] if first.startswith(b"QFI\xfb") else length
    return -(-size // MIB)


def _glimpse(path: str) -> bytes:
    """A GET that hangs up after the first kilobyte."""
    answer, connection = _asked("GET", path)
    first = answer.read(1024)
    connection.close()
    return first


def _asked(method: str, path: str) -> tuple[http.client.HTTPResponse, http.client.HTTPConnection]:
    where = urlsplit(path)
    kind = http.client.HTTPSConnection if where.scheme == "https" else http.client.HTTPConnection
    connection = kind(where.hostname or "", where.port, timeout=30)
    connection.request(method, f"{where.path}?{where.query}" if where.query else where.path)
    answer = connection.getresponse()
    if answer.status != 200:
        connection.close()
        raise ValueError(f"{method} answered {answer.status}")
    return answer, connection


def _is_qcow2(file: Path) -> bool:
    with file.open("rb") as reading:
        return reading.read(4) == b"QFI\xfb"


# -- changing ----------------------------------------------------------------------------------


def update(site: Oned, user: User, number: int, text: str, mode: int) -> int:
    call = "one.image.update"
    image = mine(site, user, call, number)
    image.template = merged(call, image.template, text, mode, number)
    return number


def merged(call: str, old: Template, text: str, mode: int, number: int) -> Template:
    """A template after `update`: 0 replaces all of it, 1 what is named."""
    try:
        new = parsed(text)
    except Malformed as e:
        message = f"[{call}] Cannot update template. {e}"
        raise Refusal(one.INTERNAL, message, number) from e
    return new if mode == 0 else old | new


def persistent(site: Oned, user: User, number: int, wish: bool) -> int:  # noqa: FBT001  # the wire's shape
    call = "one.image.persistent"
    image = mine(site, user, call, number)
    if image.vms:
        message = f"[{call}] Error setting persistent: image is used by VMs"
        raise Refusal(one.ACTION, message, number)
    image.persistent = wish
    return number


def delete(site: Oned, user: User, number: int, force: bool = False) -> int:  # noqa: FBT001, FBT002  # the wire's shape
    call = "one.image.delete"
    image = mine(site, user, call, number)
    if image.vms and image.type != one.BACKUP_IMAGE:
        message = f"[{call}] Cannot delete image. There are {len(image.vms)} VMs using it."
        raise Refusal(one.ACTION, message, number)
    if image.clones:
        message = f"[{call}] Cannot delete image. There are {image.clones} active clone operations."
        raise Refusal(one.ACTION, message, number)
    if image.state == one.LOCKED and not force:
        message = f"[{call}] Cannot delete image. Image is locked, use force."
        raise Refusal(one.ACTION, message, number)
    image.state = one.DELETE

    def gone() -> None:
        site.images.pop(number, None)
        if image.type == one.BACKUP_IMAGE:
            folder = site.file(f"{one.DATASTORES}/{one.BACKUP_DS}/{image.vms[0]}")
            for place in {image.source, *(each["SOURCE"] for each in image.increments)}:
                shutil.rmtree(folder / place)
            for vm in site.vms.values():
                vm.backups = [each for each in vm.backups if each != number]
                if vm.chain == number:
                    vm.chain = vm.last_increment = -1
        elif image.source:
            bitmaps.drop(site.file(image.source))
            site.file(image.source).unlink(missing_ok=True)

    site.later(site.stale(), gone)
    return number


# -- common to all pools -----------------------------------------------------------------------


def visible(user: User, uid: int, flag: int) -> bool:
    """Filter flags: -4 group, -3 mine, -2 all, -1 mine and group, or a user's id."""
    if flag < -4:
        raise Refusal(one.API, "Incorrect filter_flag")
    return uid == user.id or (user.id == 0 and flag == -2) or flag == uid


class _Numbered(Protocol):
    @property
    def id(self) -> int: ...


N = TypeVar("N", bound=_Numbered)


def paged(rows: Iterable[N], start: int, end: int) -> list[N]:
    """Descending ids; `start..end` is a range of ids, or a page of -end from offset start."""
    ordered = sorted(rows, key=lambda each: each.id, reverse=True)
    if end < -1:
        return ordered[max(start, 0) : max(start, 0) - end]
    low = max(start, 0)
    return [each for each in ordered if each.id >= low and (end < 0 or each.id <= end)]


def _without(template: Template, *keys: str) -> Template:
    return {key: values for key, values in template.items() if key not in keys}
