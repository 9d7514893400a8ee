"""Which life of the control plane is the present one: claimed in the store, one after the other."""

from uuid import UUID

from controlplane.domain.errors import Conflict
from controlplane.vault import signed
from controlplane.vault.ports import ObjectStore, Signer

_FOLDER = "incarnations"


class Lives:
    """`incarnations/<number>` names each life that began with a restore; the first has number 1."""

    def __init__(self, objects: ObjectStore, signer: Signer) -> None:
        self._objects = objects
        self._signer = signer

    def newest(self) -> int:
        """The number of the last life that was claimed; 1 when none was."""
        numbers = [int(name.rpartition("/")[2]) for name in self._objects.names(_FOLDER)]
        return max(numbers, default=1)

    def claim(self, incarnation: UUID) -> int:
        """The number of this new life, from now on the newest.

        Conflict when another restore claimed it in the same moment.
        """
        number = self.newest() + 1
        body: dict[str, object] = {"incarnation": str(incarnation), "number": number}
        try:
            self._objects.put(f"{_FOLDER}/{number:06d}", signed.sign("life", body, self._signer))
        except Conflict as taken:
            raise Conflict(
                "another restore of this control plane has just begun its life in the same store:"
                " only one may go on; look which, and stop the other"
            ) from taken
        return number
