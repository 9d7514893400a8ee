"""What a check of the vault found, in findings with stable ids.

VLT01 head or root, VLT02 chain of heads, VLT03 pack missing, VLT04 pack's table, VLT05 blobs,
VLT06 key, VLT07 place of a disk, VLT08 place that was stored again, VLT09 index segment, VLT10
object on no record, VLT11 group of points, VLT12 wrapped key.
"""

from collections import Counter
from collections.abc import Callable, Sequence

from controlplane.domain.finding import Finding, Severity
from controlplane.domain.ids import GroupId, InstanceId, TenantName
from controlplane.vault.naming import Affected, Extents

Named = Callable[[TenantName, InstanceId], str]

MOST = 200
"""So many findings of one id and severity are kept; further ones are counted."""
_SHOWN = 8
_REPAIR = (
    "copy it again (a new recovery point, or the image's upload), which stores it anew, or bring it"
    " back from another copy of the store; and look at the store's hardware"
)
_SPARE = "nothing for the recovery points; look at the store's hardware"


class Flaws:
    """`name` tells what people call an instance."""

    def __init__(self, name: Named) -> None:
        self._name = name
        self._found: dict[tuple[str, str, str], Finding] = {}
        self._counts: Counter[tuple[str, Severity]] = Counter()
        self._more = 0
        self.damaged = False

    def findings(self) -> tuple[Finding, ...]:
        """By id and subject; the last says how many more there are."""
        found = sorted(self._found.values(), key=lambda f: (f.id, f.subject))
        if self._more:
            text = f"{self._more} more findings are left out"
            found.append(_finding("VLT00", Severity.INFO, "the vault", text))
        return tuple(found)

    def head(self, what: str, why: str) -> None:
        self._grave("VLT01", what, why, _REPAIR)

    def chain(self, what: str, why: str) -> None:
        self._grave(
            "VLT02", what, why,
            "find out whether the store serves an older state, or another control plane writes"
            " to it, before anything is restored from it",
        )  # fmt: skip

    def group(self, group: GroupId, why: str) -> None:
        self._grave(
            "VLT11", f"group {group}", why,
            "restore its instances from another group, or bring the head back from another copy of"
            " the store",
        )  # fmt: skip

    def pack(self, pack: bytes, *, missing: bool, needed: bool) -> None:
        """`needed`: a retained point cannot be restored without it."""
        if missing:
            self._stored("VLT03", pack, "it is missing from the store", needed=needed)
        else:
            text = "its table does not open: cut off or changed"
            self._stored("VLT04", pack, text, needed=needed)

    def blobs(self, pack: bytes, positions: Sequence[int], *, needed: bool) -> None:
        """`needed` as of a pack."""
        which = _some(positions)
        text = f"{len(positions)} blob(s) do not open or are not what they were: number {which}"
        self._stored("VLT05", pack, text, needed=needed)

    def key_missing(self, domain: str, why: str) -> None:
        self._grave(
            "VLT06", domain, why,
            "bring the key back (fedctl backup restore, or keys/ of another copy of the store)",
        )  # fmt: skip

    def affected(self, it: Affected) -> None:
        subject = f"{self._name(it.tenant, it.instance)}, disk {it.disk}"
        where = f"in {len(it.points)} recovery point(s): {_some(it.points)}"
        if it.extents:
            self._grave("VLT07", subject, f"damaged {_places(it.extents)} {where}", _REPAIR)
        if it.again:
            text = f"damaged {_places(it.again)} and stored again since {where}"
            self._add(_finding("VLT08", Severity.INFO, subject, text, "nothing: it reads back"))

    def segment(self, name: str, why: str) -> None:
        self._add(
            _finding(
                "VLT09", Severity.WARNING, name, why,
                "nothing must be done: the packs' own tables tell the same, more slowly",
            )
        )  # fmt: skip

    def wrapped(self, name: str, why: str) -> None:
        self._add(
            _finding(
                "VLT12", Severity.WARNING, name, why,
                "back up the database, which has the key if the vault can be read"
                " (fedctl backup create), and bring the object back from another copy of the store",
            )
        )  # fmt: skip

    def strange(self, name: str) -> None:
        self._add(
            _finding(
                "VLT10", Severity.INFO, name, "it is on no record",
                "look who put it there; nothing of fedctl deletes it",
            )
        )  # fmt: skip

    def _stored(self, code: str, pack: bytes, evidence: str, *, needed: bool) -> None:
        if needed:
            self._grave(code, _pack(pack), evidence, _REPAIR)
            return
        text = f"{evidence}; every recovery point can be restored without it"
        self._add(_finding(code, Severity.WARNING, _pack(pack), text, _SPARE))

    def _grave(self, code: str, subject: str, evidence: str, remedy: str) -> None:
        self.damaged = True
        self._add(_finding(code, Severity.BLOCKER, subject, evidence, remedy))

    def _add(self, finding: Finding) -> None:
        key = (finding.id, finding.subject, finding.evidence)
        if key in self._found:
            return
        self._counts[finding.id, finding.severity] += 1
        if self._counts[finding.id, finding.severity] <= MOST:
            self._found[key] = finding
        else:
            self._more += 1


def _finding(code: str, severity: Severity, subject: str, text: str, remedy: str = "") -> Finding:
    return Finding(id=code, severity=severity, subject=subject, evidence=text, remedy=remedy)


def _pack(pack: bytes) -> str:
    return f"pack {pack.hex()}"


def _some(items: Sequence[object]) -> str:
    return ", ".join(map(str, items[:_SHOWN])) + (", ..." if len(items) > _SHOWN else "")


def _places(extents: Extents) -> str:
    """`131072 bytes at offset 65536, 196608`, or with how many places there are more."""
    total = sum(length for _, length in extents)
    at = ", ".join(str(offset) for offset, _ in extents[:_SHOWN])
    more = f" and {len(extents) - _SHOWN} more" if len(extents) > _SHOWN else ""
    return f"{total} bytes from offset {at}{more}"
