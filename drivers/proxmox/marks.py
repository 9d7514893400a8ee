"""What we write on a site's objects to know them again: tags, file names, lines of a description.

Pure, as `mapping` is.
"""

import json
import re
from dataclasses import asdict, dataclass, replace
from uuid import UUID

from controlplane.domain.disk import DiskFormat
from controlplane.domain.errors import Invalid
from controlplane.domain.fence import FenceLevel
from controlplane.domain.ids import ArtefactId
from controlplane.domain.owner import OwnerTag

_IMAGE = re.compile(r"(fedctl\.[0-9a-f.]+)-([0-9a-f]{16})-(\d+)\.(raw|qcow2)")
_SNAPSHOT_TAG = "fedctl-snap."


# -- owner tags --------------------------------------------------------------------------------


def owner_of(tags: object) -> OwnerTag | None:
    """Our tag among a VM's tags; the newest epoch if several stand there."""
    found = []
    for tag in str(tags or "").split(";"):
        if tag.startswith("fedctl."):
            try:
                found.append(OwnerTag.parse(tag))
            except Invalid:
                continue  # somebody's own tag that looks like ours
    return max(found, key=lambda owner: owner.epoch, default=None)


def snapshots_of(tags: object) -> frozenset[ArtefactId]:
    """The snapshots of ours that a VM's tags announce."""
    return frozenset(
        ArtefactId(UUID(hex=tag.removeprefix(_SNAPSHOT_TAG)))
        for tag in str(tags or "").split(";")
        if re.fullmatch(re.escape(_SNAPSHOT_TAG) + "[0-9a-f]{32}", tag)
    )


def tags_with(tags: object, owner: OwnerTag) -> str:
    """The VM's tags with this owner in place of an earlier stamp."""
    others = [t for t in str(tags or "").split(";") if t and not t.startswith("fedctl.")]
    return ";".join([*others, owner.text()])


def tags_without(tags: object) -> str:
    """The VM's tags without any mark of ours."""
    others = (t for t in str(tags or "").split(";") if not t.startswith(("fedctl.", _SNAPSHOT_TAG)))
    return ";".join(t for t in others if t)


def tags_with_snapshot(tags: object, snapshot: ArtefactId) -> str:
    return ";".join([str(tags or ""), _SNAPSHOT_TAG + snapshot.hex]).strip(";")


def tags_without_snapshot(tags: object, snapshot: ArtefactId) -> str:
    gone = _SNAPSHOT_TAG + snapshot.hex
    return ";".join(tag for tag in str(tags or "").split(";") if tag and tag != gone)


def snapshot_name(snapshot: ArtefactId) -> str:
    return f"fedctl{snapshot.hex}"


# -- names of staged images --------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageName:
    """What the file name of a staged image tells; `size` is the disk's length inside."""

    owner: OwnerTag
    digest: str
    size: int
    format: DiskFormat

    def text(self) -> str:
        return f"{self.owner.text()}-{self.digest}-{self.size}.{self.format}"

    def same_bytes(self, other: "ImageName") -> bool:
        return (self.digest, self.size) == (other.digest, other.size)

    @classmethod
    def parse(cls, text: str) -> "ImageName | None":
        match = _IMAGE.fullmatch(text)
        try:
            return match and cls(
                owner=OwnerTag.parse(match[1]),
                digest=match[2],
                size=int(match[3]),
                format=DiskFormat(match[4]),
            )
        except Invalid:
            return None


def stamp_in(name: str) -> OwnerTag | None:
    """The owner in a stamp's file name."""
    try:
        return OwnerTag.parse(name.removesuffix(".raw"))
    except Invalid:
        return None


# -- notes: what we keep in a VM's description -------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class FenceNote:
    """What a fence changed, so that it can be put back."""

    level: FenceLevel
    onboot: bool = False
    ha: str = ""
    links: tuple[str, ...] = ()  # nics that were connected before an isolating fence


@dataclass(frozen=True, slots=True, kw_only=True)
class Notes:
    """Our lines of the description, and the rest, which is other people's."""

    owner: OwnerTag | None = None
    spec: str = ""
    grow: tuple[tuple[str, int], ...] = ()  # slots that are to be larger than their image
    fence: FenceNote | None = None
    other: str = ""


def read_notes(description: object) -> Notes:
    notes, other = Notes(), []
    for line in str(description or "").split("\n"):
        key, _, text = line.partition(": ")
        try:
            match key:
                case "fedctl-owner":
                    notes = replace(notes, owner=OwnerTag.parse(text))
                case "fedctl-spec":
                    notes = replace(notes, spec=text)
                case "fedctl-grow":
                    notes = replace(notes, grow=tuple((s, int(n)) for s, n in json.loads(text)))
                case "fedctl-fence":
                    kept = json.loads(text)
                    fence = FenceNote(
                        level=FenceLevel(kept["level"]),
                        onboot=bool(kept["onboot"]),
                        ha=str(kept["ha"]),
                        links=tuple(kept["links"]),
                    )
                    notes = replace(notes, fence=fence)
                case _:
                    other.append(line)
        except (Invalid, ValueError, KeyError, TypeError):
            other.append(line)  # edited by hand: no note of ours any more
    return replace(notes, other="\n".join(other).strip("\n"))


def write_notes(notes: Notes) -> str:
    lines = [notes.other] if notes.other else []
    if notes.owner is not None:
        lines.append(f"fedctl-owner: {notes.owner.text()}")
    if notes.spec:
        lines.append(f"fedctl-spec: {notes.spec}")
    if notes.grow:
        lines.append(f"fedctl-grow: {json.dumps(notes.grow)}")
    if notes.fence is not None:
        lines.append(f"fedctl-fence: {json.dumps(asdict(notes.fence))}")
    return "\n".join(lines)
