"""Where instances are at home, signed and kept in the store: what outlives the database."""

from collections.abc import Iterator
from datetime import datetime
from uuid import UUID

from controlplane.domain.errors import Conflict, Integrity
from controlplane.domain.ids import ArtefactId, InstanceId, OperationId, SiteName, TenantName
from controlplane.domain.placement import Home
from controlplane.vault import signed
from controlplane.vault.ports import ObjectStore, Signer
from controlplane.vault.whole import ReadWhole, reading

_KIND = "fedctl-home-1"
_FOLDER = "homes"


class Homes:
    """One document for each switch, `homes/<tenant>/<instance>/<epoch>`; never changed.

    An owner tag tells whose a copy is and under which epoch it was made, and not whether it ever
    became the home; this does. It is written after the transaction of the switch and before the
    new home's networks are connected. `read` may mend what the store damaged.
    """

    def __init__(self, objects: ObjectStore, signer: Signer, read: ReadWhole | None = None) -> None:
        self._objects = objects
        self._signer = signer
        self._whole = read or reading(objects)

    def put(self, home: Home) -> None:
        """Durable when it returns; again is fine. Integrity when another stands in its place."""
        name = _name(home)
        try:
            self._objects.put(name, signed.sign("home", _body(home), self._signer))
        except Conflict as taken:
            if self._read(name) != home:
                raise Integrity(
                    f"the store has another home of instance {home.instance} for epoch"
                    f" {home.epoch}: two control planes have switched it; look which of them is to"
                    " go on, and stop the other"
                ) from taken

    def newest(self) -> Iterator[Home]:
        """The last home of each instance that ever had one. Integrity, Unavailable."""
        last: dict[str, str] = {}
        for name in self._objects.names(_FOLDER):
            folder = name.rpartition("/")[0]
            last[folder] = max(name, last.get(folder, ""))
        for name in sorted(last.values()):
            yield self._read(name)

    def _read(self, name: str) -> Home:
        what = f"the record {name} of an instance's home"
        body = self._whole(
            name, lambda document: signed.read("home", document, self._signer, what=what)
        )
        try:
            home = Home(
                tenant=TenantName(str(body["tenant"])),
                instance=InstanceId(UUID(str(body["instance"]))),
                epoch=int(str(body["epoch"])),
                site=SiteName(str(body["site"])),
                copy=ArtefactId(UUID(str(body["copy"]))),
                operation=OperationId(UUID(str(body["operation"]))),
                since=datetime.fromisoformat(str(body["since"])),
            )
        except (KeyError, ValueError) as e:
            raise Integrity(f"{what} is not one of ours") from e
        if body.get("kind") != _KIND or _name(home) != name:
            raise Integrity(f"{what} speaks of another: somebody moved it")
        return home


def _name(home: Home) -> str:
    return f"{_FOLDER}/{home.tenant}/{home.instance.hex}/{home.epoch:010d}"


def _body(home: Home) -> dict[str, object]:
    return {
        "kind": _KIND,
        "tenant": home.tenant,
        "instance": str(home.instance),
        "epoch": home.epoch,
        "site": home.site,
        "copy": str(home.copy),
        "operation": str(home.operation),
        "since": home.since.isoformat(),
    }
