"""Files on their way to become images: resumable, checked, kept from other eyes."""

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

from controlplane.domain.disk import DiskFormat
from controlplane.domain.errors import (
    Busy,
    Conflict,
    Exhausted,
    FedctlError,
    Invalid,
    Unavailable,
)
from controlplane.domain.ids import checked_name
from controlplane.domain.kinds import facts
from controlplane.domain.operation import Operation, OperationKind
from controlplane.domain.resource import Kind, Resource, ResourceKey, State
from controlplane.services.ports import Clock, ServiceSettings
from controlplane.services.record import free, note, start
from controlplane.services.stored import Stored, living
from controlplane.services.wish import Caller, Granted, Wish
from controlplane.store.engine import Store
from controlplane.store.tx import Tx

WRONG_OFFSET = "wrong-offset"
_QCOW2_MAGIC = b"QFI\xfb"
_FLUSHED_AT_LEAST_EVERY = 64 * 1024 * 1024
_IMAGE_FIELDS = ("cpuArchitecture", "boot", "initializer")
_IMAGE_DEFAULTS = {"cpuArchitecture": "amd64", "boot": "BIOS"}


class Uploads(Stored):
    """`received` counts bytes that are durable; what lies behind them is written again."""

    kind = Kind.IMAGE_UPLOAD

    def __init__(self, *, store: Store, clock: Clock, settings: ServiceSettings) -> None:
        super().__init__(store=store, clock=clock)
        self._settings = settings

    def put(self, caller: Caller, key: ResourceKey, wish: Wish) -> Granted:
        checked_name(str(wish.spec["image"]), what="spec.image")
        size = cast("int", wish.spec["sizeBytes"])
        if size > self._settings.upload_max:
            raise Invalid(
                f"spec.sizeBytes is {size}; at most {self._settings.upload_max} are taken here"
            )
        now = self.clock.now()
        with self.store.begin() as tx:
            before = tx.resources.find(key)
            if before is not None and before.spec != wish.spec:
                raise Conflict(
                    f"upload {key.name} is of another file: delete it first, or use another name"
                )
            if before is None:
                self._admit(tx, key, wish, size)
            granted = self.write(tx, key, wish, status={"received": 0}, now=now)
            resource = granted.resource
            if granted.created:
                resource = tx.resources.set_state(resource.id, State.CREATING, now=now)
                self._make_file(resource)
            note(tx, caller, "put", key, now)
        if not granted.created and _whole(resource):  # the last part was not answered
            return self.complete(caller, key)
        return replace(granted, resource=resource)

    @contextmanager
    def receiving(self, key: ResourceKey, offset: int, total: int) -> Generator["Receiver"]:
        """A receiver for bytes from `offset` on; one at a time for each upload.

        What was received is durable and recorded when the block ends, however it ends.
        """
        with self.store.read() as tx:
            upload = tx.resources.get(key)
        size = cast("int", upload.spec["sizeBytes"])
        if upload.state is not State.CREATING:
            raise Conflict(f"upload {key.name} is {upload.state}: it takes no more bytes")
        if total != size:
            raise Invalid(
                f"Content-Range says {total} bytes in all, the upload was said to be {size}"
            )
        with self._locked(upload) as descriptor:
            with self.store.read() as tx:
                received = cast("int", tx.resources.get(key).status.get("received", 0))
            if offset != received:
                raise Conflict(
                    f"upload {key.name} goes on at byte {received}, not {offset}: send from there",
                    reason=WRONG_OFFSET,
                )
            os.ftruncate(descriptor, received)
            os.lseek(descriptor, received, os.SEEK_SET)
            receiver = Receiver(self, upload, descriptor, received)
            try:
                yield receiver
            finally:
                receiver.flush()

    def complete(self, caller: Caller, key: ResourceKey) -> Granted:
        """Once all bytes are there: checks them, then begins the import."""
        with self.store.read() as tx:
            upload = tx.resources.get(key)
        if not _whole(upload):
            return Granted(resource=upload, created=False)
        with self._locked(upload):
            try:
                digest = _checked(self.path(upload), upload)
            except Invalid as e:
                self._spoil(key, upload, e)
                raise
        now = self.clock.now()
        with self.store.begin() as tx:
            upload = tx.resources.get(key)
            if upload.state is not State.CREATING:
                return Granted(resource=upload, created=False)
            image = self._image(tx, caller, upload)
            order = {
                "upload": str(upload.id),
                "file": self.path(upload).name,
                "format": _wished_format(upload),
            }
            operation = start(tx, caller, OperationKind.IMPORT_IMAGE, image, now=now, order=order)
            reference = {"resource": facts(Kind.IMAGE).resource(image.key.name)}
            changes = {"imageRef": reference, "operation": operation.name}
            tx.resources.patch_status(
                upload.id, changes | ({"sha256": digest} if digest else {}), now=now
            )
            resource = tx.resources.set_state(upload.id, State.ACTIVE, now=now)
            note(tx, caller, "complete", key, now)
            return Granted(resource=resource, created=False, operation=operation)

    def delete(self, caller: Caller, key: ResourceKey, expected: int | None) -> Operation | None:
        now = self.clock.now()
        with self.store.begin() as tx:
            upload = living(tx, key, expected)
            image = tx.resources.find(_image_key(upload))
            if image is not None and image.state in {State.PENDING, State.CREATING}:
                free(tx, image.id, what=f"upload {key.name}")
            if upload.state is not State.DELETING:
                tx.resources.mark_deleting(upload.id, now)
            tx.resources.remove(upload.id, now)
            note(tx, caller, "delete", key, now)
        self.path(upload).unlink(missing_ok=True)
        return None

    def path(self, upload: Resource) -> Path:
        return self._settings.uploads / f"{upload.id}.upload"

    def record(self, upload: Resource, received: int) -> None:
        with self.store.begin() as tx:
            tx.resources.patch_status(upload.id, {"received": received}, now=self.clock.now())

    def _admit(self, tx: Tx, key: ResourceKey, wish: Wish, size: int) -> None:
        image = tx.resources.find(_named_image(key, str(wish.spec["image"])))
        if image is not None and image.state is not State.ERROR:
            raise Conflict(
                f"there is an image {image.key.name!r} already ({image.state}):"
                " delete it first, or choose another name"
            )
        self._settings.uploads.mkdir(mode=0o700, parents=True, exist_ok=True)
        room = shutil.disk_usage(self._settings.uploads).free
        if size > room:
            raise Exhausted(
                f"the control plane has {room} bytes free for uploads, the file has {size}:"
                " free some, or give the uploads folder a larger disk"
            )

    def _make_file(self, upload: Resource) -> None:
        descriptor = os.open(self.path(upload), os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        os.close(descriptor)

    @contextmanager
    def _locked(self, upload: Resource) -> Generator[int]:
        try:
            descriptor = os.open(self.path(upload), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError as e:
            raise Conflict(
                f"the bytes of upload {upload.key.name} are gone: delete it and upload again"
            ) from e
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as e:
                raise Busy(
                    f"upload {upload.key.name} is being written by another request: wait for it"
                ) from e
            yield descriptor
        finally:
            os.close(descriptor)

    def _image(self, tx: Tx, caller: Caller, upload: Resource) -> Resource:
        """The image's record; one whose import failed is begun anew."""
        key = _image_key(upload)
        present = tx.resources.find(key)
        if present is not None and present.state is not State.ERROR:
            raise Conflict(
                f"there is an image {key.name!r} already ({present.state}):"
                " delete it first, then ask for this upload again"
            )
        fields = {name: upload.spec.get(name, _IMAGE_DEFAULTS.get(name)) for name in _IMAGE_FIELDS}
        source = {
            "provider": facts(Kind.IMAGE_UPLOAD).provider,
            "resource": facts(Kind.IMAGE_UPLOAD).resource(upload.key.name),
        }
        spec = {"blockStorageRef": source, **{k: v for k, v in fields.items() if v is not None}}
        granted = self.write(tx, key, Wish(spec=spec), status={}, now=self.clock.now())
        note(tx, caller, "put", key, self.clock.now())
        return granted.resource

    def _spoil(self, key: ResourceKey, upload: Resource, why: Invalid) -> None:
        """The bytes are not what was said: they go, and the record says why."""
        now = self.clock.now()
        with self.store.begin() as tx:
            if tx.resources.get(key).state is State.CREATING:
                tx.resources.set_state(
                    upload.id,
                    State.ERROR,
                    now=now,
                    type="upload",
                    reason="refused",
                    message=str(why),
                )
        self.path(upload).unlink(missing_ok=True)


class Receiver:
    """Writes one request's bytes in order; `flush` makes them durable and records how many."""

    def __init__(self, uploads: Uploads, upload: Resource, descriptor: int, received: int) -> None:
        self._uploads = uploads
        self._upload = upload
        self._descriptor = descriptor
        self._size = cast("int", upload.spec["sizeBytes"])
        self._durable = received
        self.received = received

    def write(self, data: bytes) -> None:
        if self.received + len(data) > self._size:
            raise Invalid(
                f"upload {self._upload.key.name} was said to have {self._size} bytes,"
                " and more are coming: delete it and begin again with the right size"
            )
        view = memoryview(data)
        while view:
            try:
                written = os.write(self._descriptor, view)
            except OSError as e:
                raise _no_room(e, self._upload) from e
            self.received += written
            view = view[written:]
        if self.received - self._durable >= _FLUSHED_AT_LEAST_EVERY:
            self.flush()

    def flush(self) -> None:
        if self.received == self._durable:
            return
        try:
            os.fsync(self._descriptor)
        except OSError as e:
            raise _no_room(e, self._upload) from e
        self._uploads.record(self._upload, self.received)
        self._durable = self.received


def _whole(upload: Resource) -> bool:
    """Whether all bytes are there and nobody has looked at them yet."""
    complete = upload.status.get("received") == upload.spec["sizeBytes"]
    return complete and upload.state is State.CREATING


def _no_room(error: OSError, upload: Resource) -> FedctlError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return Exhausted(
            f"the control plane's disk is full; upload {upload.key.name} keeps what it has:"
            " free some room there, then send the rest"
        )
    return Unavailable(
        f"the bytes of upload {upload.key.name} could not be written: ask again",
        detail=str(error),
    )


def _wished_format(upload: Resource) -> str:
    """As it was said; `auto` leaves it to the import, which refuses what looks like no disk."""
    return str(upload.spec.get("format", "auto"))


def _checked(path: Path, upload: Resource) -> str:
    """The digest of a complete file, if one is expected; Invalid where it is not what was said."""
    wished = _wished_format(upload)
    expected = upload.spec.get("sha256")
    with path.open("rb") as file:
        is_qcow2 = file.read(len(_QCOW2_MAGIC)) == _QCOW2_MAGIC
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest() if expected else ""
    if wished == DiskFormat.QCOW2 and not is_qcow2:
        raise Invalid(
            f"upload {upload.key.name} is no qcow2 image (it does not begin as one):"
            " upload it as raw, or send the right file under a new name"
        )
    if expected and digest != expected:
        raise Invalid(
            f"upload {upload.key.name} has the SHA-256 {digest}, not {expected}:"
            " the file changed or the transfer broke; delete it and upload again"
        )
    return digest


def _image_key(upload: Resource) -> ResourceKey:
    return _named_image(upload.key, str(upload.spec["image"]))


def _named_image(upload: ResourceKey, name: str) -> ResourceKey:
    return facts(Kind.IMAGE).key(name, upload.tenant, None)
