"""What was deleted on purpose, signed: a second store deletes that, and nothing else."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime

from controlplane.domain.errors import Conflict, Integrity
from controlplane.vault import signed
from controlplane.vault.ports import ObjectStore, Signer

_FOLDER = "gone"
_FIELD = "gone"
_KIND = "fedctl-gone-1"


class Departed:
    """`gone/<name>` says that the object, or all that is under that name, is needed no more.

    It is written before the deletion, and goes when the second store has followed.
    """

    def __init__(self, objects: ObjectStore, signer: Signer) -> None:
        self._objects = objects
        self._signer = signer

    def put(self, name: str, at: datetime) -> None:
        """Durable when it returns; again is fine."""
        body: dict[str, object] = {"kind": _KIND, "name": name, "at": at.isoformat()}
        with suppress(Conflict):
            self._objects.put(f"{_FOLDER}/{name}", signed.sign(_FIELD, body, self._signer))

    def names(self) -> Iterator[str]:
        """Of everything that is said to be gone; `proven` tells whether we said it."""
        for name in self._objects.names(_FOLDER):
            yield name.partition("/")[2]

    def proven(self, name: str) -> None:
        """Integrity unless this control plane said that the object is gone."""
        what = f"the record {_FOLDER}/{name} of a deletion"
        body = signed.read(_FIELD, self._objects.get(f"{_FOLDER}/{name}"), self._signer, what=what)
        if body.get("kind") != _KIND or body.get("name") != name:
            raise Integrity(f"{what} speaks of another: somebody moved it")

    def drop(self, name: str) -> None:
        self._objects.delete(f"{_FOLDER}/{name}")
