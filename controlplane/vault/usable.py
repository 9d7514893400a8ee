"""Which references may still be relied upon, and what of an earlier attempt may be kept."""

from collections.abc import Iterable
from dataclasses import replace

from controlplane.domain.errors import Integrity
from controlplane.domain.vault import (
    Damage,
    LeafDone,
    PackState,
    Ref,
    Session,
)
from controlplane.vault.blobs import Blobs
from controlplane.vault.manifest import Shape, Tree, decode
from controlplane.vault.ports import (
    VaultRecords,
)

_GOOD = (PackState.SEALED, PackState.VERIFIED)


class Usable:
    """Answers for one run from what the records say when they are first asked."""

    def __init__(self, *, records: VaultRecords, domain: str) -> None:
        self._records = records
        self._domain = domain
        self._damaged = records.damaged(domain)
        self._touched = {damage.pack for damage in self._damaged}
        self._good: dict[bytes, bool] = {}

    def __call__(self, ref: Ref) -> bool:
        if not self._is_good(ref.pack):
            return False
        if ref.pack not in self._touched:
            return True
        whole = Damage(domain=self._domain, pack=ref.pack)
        return not {whole, replace(whole, position=ref.position)} & self._damaged

    def whole(self, packs: Iterable[bytes]) -> bool:
        """Whether every blob of these packs may be relied upon."""
        return all(self._is_good(pack) and pack not in self._touched for pack in packs)

    def _is_good(self, pack: bytes) -> bool:
        if pack not in self._good:
            self._good[pack] = self._records.states([pack]).get(pack) in _GOOD
        return self._good[pack]


def recheck(session: Session, *, records: VaultRecords, blobs: Blobs, usable: Usable) -> Session:
    """The session without what was damaged or condemned since it was covered."""
    if session.copied is not None:
        tree = Tree(pages=blobs, layout=session.layout, top=session.copied.top)
        try:
            if all(usable(ref) for ref in tree.refs()):
                return session
        except Integrity:
            pass  # the leaf or upper page that is broken is made again below
    shape = Shape(layout=session.layout)
    bad = {i for i, leaf in session.covered.items() if not _sound(leaf, shape, blobs, usable)}
    records.uncover(session, bad)
    covered = {i: leaf for i, leaf in session.covered.items() if i not in bad}
    return replace(session, covered=covered, copied=None)


def _sound(leaf: LeafDone, shape: Shape, blobs: Blobs, usable: Usable) -> bool:
    if leaf.ref is None:
        return True
    if not usable(leaf.ref):
        return False
    try:
        page = decode(blobs.page(leaf.ref), 0, leaf.index, shape.entries(0, leaf.index))
    except Integrity:
        return False
    return all(ref is None or usable(ref) for ref in page)
