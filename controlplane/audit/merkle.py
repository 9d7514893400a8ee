"""The Merkle tree of RFC 9162: hashes, tree heads, proofs.

Leaves enter as hashes (`leaf_hash`). Appending needs a `Frontier` only: the roots of the perfect
subtrees, at most one for each bit of the size.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from controlplane.domain.errors import Integrity

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """A tree of `size` leaves as far as appending needs it; `peaks` from left to right."""

    size: int = 0
    peaks: tuple[bytes, ...] = ()

    def append(self, leaf: bytes) -> "Frontier":
        """The tree with the leaf hash `leaf` at its end."""
        peaks, node, bits = list(self.peaks), leaf, self.size
        while bits & 1:
            node = node_hash(peaks.pop(), node)
            bits >>= 1
        return Frontier(size=self.size + 1, peaks=(*peaks, node))

    def root(self) -> bytes:
        if not self.peaks:
            return EMPTY_ROOT
        *_, top = accumulate(reversed(self.peaks), lambda right, left: node_hash(left, right))
        return top

    def raw(self) -> bytes:
        """For a row, together with `size`."""
        return b"".join(self.peaks)

    @classmethod
    def of(cls, size: int, raw: bytes) -> "Frontier":
        """What `raw()` gave; `Integrity` if it cannot be a tree of `size` leaves."""
        if size < 0 or len(raw) != size.bit_count() * HASH_BYTES:
            raise Integrity(
                f"the stored state of the audit tree does not fit its {size} entries:"
                " rebuild it from the entries"
            )
        starts = range(0, len(raw), HASH_BYTES)
        return cls(size=size, peaks=tuple(raw[at : at + HASH_BYTES] for at in starts))


def root(leaves: Sequence[bytes]) -> bytes:
    """The tree head over all `leaves`."""
    frontier = Frontier()
    for leaf in leaves:
        frontier = frontier.append(leaf)
    return frontier.root()


def inclusion_proof(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """The path from leaf `index` to the head of all `leaves`, nearest first."""
    if not 0 <= index < len(leaves):
        raise IndexError(index)
    path: list[bytes] = []
    low, high = 0, len(leaves)
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            path.append(root(leaves[middle:high]))
            high = middle
        else:
            path.append(root(leaves[low:middle]))
            low = middle
    return tuple(reversed(path))


def consistency_proof(leaves: Sequence[bytes], old: int) -> tuple[bytes, ...]:
    """Shows that the first `old` leaves of the tree over `leaves` are still what they were."""
    if not 0 <= old <= len(leaves):
        raise IndexError(old)
    if old in {0, len(leaves)}:
        return ()
    path: list[bytes] = []
    low, high = 0, len(leaves)
    while old != high:
        middle = low + _split(high - low)
        if old <= middle:
            path.append(root(leaves[middle:high]))
            high = middle
        else:
            path.append(root(leaves[low:middle]))
            low = middle
    if low > 0:  # the old tree is not itself a node of the new one
        path.append(root(leaves[low:high]))
    return tuple(reversed(path))


def verify_inclusion(
    leaf: bytes, *, index: int, size: int, proof: Sequence[bytes], head: bytes
) -> None:
    """`Integrity` unless `proof` leads from `leaf` at `index` to the `head` of `size` leaves."""
    if not 0 <= index < size:
        raise _not_proven(f"entry {index} cannot be in a log of {size} entries")
    node = leaf
    turns = _turns(index, size - 1, proof)
    for left, sibling in turns or ():
        node = node_hash(sibling, node) if left else node_hash(node, sibling)
    if turns is None or node != head:
        raise _not_proven(f"entry {index} is not in the log of {size} entries as claimed")


def verify_consistency(
    *, old: int, old_head: bytes, new: int, new_head: bytes, proof: Sequence[bytes]
) -> None:
    """`Integrity` unless the log of `new` entries extends the one of `old` entries."""
    failed = _not_proven(f"the log of {new} entries does not extend the one of {old} entries")
    if not 0 <= old <= new:
        raise failed
    if old in {0, new}:
        heads_agree = old_head == (EMPTY_ROOT if old == 0 else new_head)
        if proof or not heads_agree:
            raise failed
        return
    path = [old_head, *proof] if old & (old - 1) == 0 else list(proof)
    if not path:
        raise failed
    at, last = old - 1, new - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    before = after = path[0]
    turns = _turns(at, last, path[1:])
    for left, sibling in turns or ():
        if left:
            before, after = node_hash(sibling, before), node_hash(sibling, after)
        else:
            after = node_hash(after, sibling)
    if turns is None or before != old_head or after != new_head:
        raise failed


def _turns(at: int, last: int, proof: Sequence[bytes]) -> list[tuple[bool, bytes]] | None:
    """On the way up from `at`: each sibling, and whether it stands left. None: a wrong length."""
    turns = []
    for sibling in proof:
        if last == 0:
            return None
        left = bool(at & 1) or at == last
        turns.append((left, sibling))
        while left and not at & 1 and at:
            at, last = at >> 1, last >> 1
        at, last = at >> 1, last >> 1
    return turns if last == 0 else None


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << (size - 1).bit_length() - 1


def _not_proven(message: str) -> Integrity:
    return Integrity(f"{message}: ask for the log and its proof again", reason="not-proven")
