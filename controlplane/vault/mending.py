"""Putting back what the first store lost or damaged, from a second one that has it whole."""

import logging
from collections.abc import Callable
from threading import Lock
from typing import TypeVar

from controlplane.domain.errors import FedctlError, Integrity, NotFound
from controlplane.domain.vault import PackState
from controlplane.vault.pack import Packs, pack_name
from controlplane.vault.ports import Keys, ObjectStore, VaultRecords
from controlplane.vault.soundness import sound_pack
from controlplane.vault.whole import same, send

_log = logging.getLogger(__name__)
_NEEDED = (PackState.SEALED, PackState.VERIFIED)

T = TypeVar("T")


class Mending:
    """The replica's bytes are used only after the checks that the first store's would pass.

    The replica keeps its copy all the while, so that a mending which dies between deleting what is
    damaged and putting what is sound loses nothing: the next reader begins it anew.
    """

    def __init__(
        self, *, records: VaultRecords, objects: ObjectStore, replica: ObjectStore, keys: Keys,
        mended: Callable[[bytes], None],
    ) -> None:  # fmt: skip
        self._records = records
        self._objects = objects
        self._replica = replica
        self._keys = keys
        self._mended = mended
        self._lock = Lock()
        # The last one that the first store did not take back: it is asked for again and again.
        self._unmended: tuple[bytes, Packs] | None = None

    def pack(self, domain: str, pack: bytes) -> Packs | None:
        """Reads the whole pack from the replica, and mends the first store with it.

        None when the replica has no sound copy either. What the first store does not let itself be
        mended with is served all the same.
        """
        name = pack_name(pack)
        with self._lock:
            if self._unmended is not None and self._unmended[0] == pack:
                return self._unmended[1]
            try:
                data, packs = self._sound(domain, pack)
            except FedctlError as e:
                _log.warning("%s cannot be mended from the replica: %s", name, e)
                return None
            try:
                self._replace_pack(pack, data)
            except FedctlError as e:
                self._unmended = (pack, packs)
                _log.warning("%s is read from the replica and could not be mended: %s", name, e)
            return packs

    def mend(self, domain: str, pack: bytes) -> None:
        """Mends the first store with the whole pack.

        Integrity when the replica has no sound copy; else what the stores say.
        """
        with self._lock:
            self._replace_pack(pack, self._sound(domain, pack)[0])
            self._unmended = None

    def small(self, name: str, check: Callable[[bytes], T]) -> T:
        """What `check` makes of the object; of the replica's where the first store's fails it."""
        try:
            return check(self._objects.get(name))
        except (Integrity, NotFound) as first:
            try:
                data = self._replica.get(name)
                found = check(data)
            except FedctlError:
                raise first from None
            try:
                self._replace(name, data)
            except FedctlError as e:
                _log.warning("%s is read from the replica and could not be mended: %s", name, e)
            return found

    def lost(self, name: str, check: Callable[[str, bytes], object]) -> None:
        """Puts back what the first store does not show any more; Integrity when it is not sound."""
        data = self._replica.get(name)
        check(name, data)
        send(self._objects, name, data)
        self._say(name, data)

    def _sound(self, domain: str, pack: bytes) -> tuple[bytes, Packs]:
        Packs(objects=self._replica, keys=self._keys).open(domain, pack)
        name = pack_name(pack)
        data = self._replica.get(name)
        return data, sound_pack(self._keys, domain, name, data)

    def _replace_pack(self, pack: bytes, data: bytes) -> None:
        name = pack_name(pack)
        if self._records.states([pack]).get(pack) not in _NEEDED:
            return
        # Another process may have mended it, or it was read badly once and is whole.
        if not same(self._objects, name, data):
            self._replace(name, data)
            if pack not in self._records.states([pack]):
                self._objects.delete(name)  # it was collected meanwhile
                return
        self._mended(pack)

    def _replace(self, name: str, data: bytes) -> None:
        self._objects.delete(name)
        send(self._objects, name, data)
        self._say(name, data)

    def _say(self, name: str, data: bytes) -> None:
        if not same(self._objects, name, data):
            raise Integrity(f"{name} does not read back from the store as it was put back")
        _log.warning(
            "%s was damaged or lost in the vault's store and is mended from the replica", name
        )
