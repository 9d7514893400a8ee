"""Objects that are in memory as a whole: sent to a store, and compared with what it has."""

from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, TypeVar

from blake3 import blake3

from controlplane.domain.disk import MIB
from controlplane.domain.errors import Conflict, NotFound
from controlplane.vault.ports import ObjectStore

_STEP = 4 * MIB
T = TypeVar("T")


class ReadWhole(Protocol):
    """Reads a small object: what `check` makes of it, which raises Integrity for a damaged one."""

    def __call__(self, name: str, check: Callable[[bytes], T], /) -> T: ...


def reading(objects: ObjectStore) -> ReadWhole:
    """Of one store alone."""

    def read(name: str, check: Callable[[bytes], T], /) -> T:
        return check(objects.get(name))

    return read


def send(objects: ObjectStore, name: str, data: bytes) -> None:
    """Fine when the name is taken; `same` tells by what."""
    upload = objects.upload(name)
    try:
        view = memoryview(data)
        for at in range(0, len(data), _STEP):
            upload.write(bytes(view[at : at + _STEP]))
        with suppress(Conflict):
            upload.finish()
    finally:
        upload.abort()


def same(objects: ObjectStore, name: str, data: bytes) -> bool:
    """Whether the store gives these bytes; read again, and hashed."""
    try:
        if objects.size(name) != len(data):
            return False
        read = blake3()
        for at in range(0, len(data), _STEP):
            read.update(objects.get(name, at, _STEP))
    except NotFound:
        return False
    return read.digest() == blake3(data).digest()
