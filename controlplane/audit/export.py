"""An exported log, and its verification with nothing but the log and the public key.

One JSON object a line: `{"entry": {...}, "leaf": "<hex of the leaf hash>"}` for each entry in
order, and `{"checkpoint": "<signed note>"}` wherever a head was signed; the last line is one. The
leaf hashes let a verifier name the very entry that was altered.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from controlplane.audit import entries
from controlplane.audit.checkpoint import Checkpoint, open_note
from controlplane.audit.merkle import Frontier, leaf_hash
from controlplane.domain.audit import AuditEntry
from controlplane.domain.errors import Integrity, Invalid


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """Every one of `entries` is what was signed; `root` is their head."""

    entries: int
    root: bytes
    origin: str
    checkpoints: int


def entry_line(entry: AuditEntry) -> str:
    hashed = leaf_hash(entries.leaf(entry)).hex()
    return json.dumps({"entry": entries.as_json(entry), "leaf": hashed}, sort_keys=True) + "\n"


def checkpoint_line(note: str) -> str:
    return json.dumps({"checkpoint": note}) + "\n"


def verify(
    lines: Iterable[str],
    public_key: bytes,
    *,
    origin: str | None = None,
    held: Iterable[str] = (),
) -> Verified:
    """Check a whole exported log.

    `held` are signed notes that the verifier kept from earlier: they alone show that the end of
    the log was cut off, or that the log was written anew. `Integrity` tells by its reason what is
    wrong: altered, dropped, reordered, truncated, rewritten, unsigned, forged, malformed or
    other-log.
    """
    kept: dict[int, list[Checkpoint]] = {}
    for note in held:
        checkpoint = open_note(note, public_key=public_key, origin=origin)
        kept.setdefault(checkpoint.size, []).append(checkpoint)
    reading = _Reading(public_key=public_key, origin=origin, held=kept)
    numbered = iter(enumerate(lines, start=1))
    for number, line in numbered:
        if line.strip():
            reading.take(number, line, numbered)
    return reading.end()


class _Reading:
    def __init__(
        self, *, public_key: bytes, origin: str | None, held: dict[int, list[Checkpoint]]
    ) -> None:
        self._public_key = public_key
        self._origin = origin
        self._held = held
        self._frontier = Frontier()
        self._signed = 0
        self._checkpoints = 0
        self._altered: list[int] = []
        self._compare_held()

    def take(self, number: int, line: str, rest: Iterator[tuple[int, str]]) -> None:
        found = _loaded(number, line)
        if set(found) == {"checkpoint"} and isinstance(found["checkpoint"], str):
            self._take_checkpoint(found["checkpoint"])
        elif set(found) == {"entry", "leaf"} and isinstance(found["leaf"], str):
            self._take_entry(number, found["entry"], found["leaf"], rest)
        else:
            raise _wrong("malformed", f"line {number} is neither an entry nor a checkpoint")

    def end(self) -> Verified:
        size = self._frontier.size
        later = [cut for cut in self._held if cut > size]
        if later:
            raise _wrong(
                "truncated",
                f"the log ends after {size} entries, but {max(later)} were signed for:"
                f" entries {size} to {max(later) - 1} were cut off",
            )
        if self._checkpoints == 0 or self._signed < size:
            self._name_altered()
            raise _wrong(
                "unsigned",
                f"entries {self._signed} to {size - 1} stand behind the last signed checkpoint"
                if self._checkpoints
                else "the log holds no signed checkpoint",
            )
        return Verified(
            entries=size,
            root=self._frontier.root(),
            origin=self._origin or "",
            checkpoints=self._checkpoints,
        )

    def _take_entry(
        self, number: int, found: object, stated: str, rest: Iterator[tuple[int, str]]
    ) -> None:
        expected = self._frontier.size
        try:
            entry = entries.from_json(found)
            hashed = leaf_hash(entries.leaf(entry))
            stated_hash = bytes.fromhex(stated)
        except (Invalid, ValueError) as e:
            raise _wrong("malformed", f"line {number} should hold entry {expected}: {e}") from None
        if entry.sequence != expected:
            raise self._out_of_place(number, entry.sequence, rest)
        if hashed != stated_hash:
            self._altered.append(entry.sequence)
        self._frontier = self._frontier.append(stated_hash)
        self._compare_held()

    def _take_checkpoint(self, note: str) -> None:
        checkpoint = open_note(note, public_key=self._public_key, origin=self._origin)
        self._origin = checkpoint.origin
        size = self._frontier.size
        if checkpoint.size > size:
            raise _wrong(
                "dropped",
                f"a checkpoint covers {checkpoint.size} entries where only {size} stand before it:"
                f" entries {size} to {checkpoint.size - 1} are missing",
            )
        if checkpoint.size < size:
            raise _wrong(
                "reordered",
                f"the checkpoint of {checkpoint.size} entries stands behind entry {size - 1}",
            )
        if checkpoint.root != self._frontier.root():
            self._name_altered()
            raise _wrong(
                "altered",
                f"between entry {self._signed} and entry {size - 1} something was altered:"
                " the entries do not give the root that was signed",
            )
        self._name_altered()
        self._signed = size
        self._checkpoints += 1

    def _name_altered(self) -> None:
        if self._altered:
            places = ", ".join(str(place) for place in self._altered[:20])
            raise _wrong("altered", f"altered since they were signed: entry {places}")

    def _compare_held(self) -> None:
        size = self._frontier.size
        for checkpoint in self._held.get(size, ()):
            if checkpoint.root != self._frontier.root():
                self._name_altered()
                raise _wrong(
                    "rewritten",
                    f"the first {size} entries are not those of the checkpoint you hold:"
                    " the log was written anew",
                )

    def _out_of_place(self, number: int, found: int, rest: Iterator[tuple[int, str]]) -> Integrity:
        expected = self._frontier.size
        if found < expected:
            return _wrong("reordered", f"line {number} repeats entry {found} after {expected - 1}")
        for later, line in rest:
            if line.strip() and _sequence(_loaded(later, line)) == expected:
                return _wrong(
                    "reordered",
                    f"entry {expected} stands in line {later}, behind entry {found} of line"
                    f" {number}",
                )
        missing = f"entry {expected}" if found == expected + 1 else f"{expected} to {found - 1}"
        return _wrong("dropped", f"missing before line {number}: {missing}")


def _loaded(number: int, line: str) -> dict[str, object]:
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise _wrong("malformed", f"line {number} is not a JSON object")
    return found


def _sequence(found: dict[str, object]) -> object:
    entry = found.get("entry")
    return entry.get("sequence") if isinstance(entry, dict) else None


def _wrong(reason: str, what: str) -> Integrity:
    return Integrity(
        f"the audit log does not verify: {what}; keep this export and call a person",
        reason=reason,
    )
