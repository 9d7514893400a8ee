"""Backups of VMs: what each image holds, and which files show a disk at which moment. Pure.

An image is one full backup, or a chain: a full one and increments, each in a folder of its own.
What of it is ours stands in the image's own attributes, one for each backup in it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

from controlplane.domain.disk import Mark
from controlplane.domain.ids import ArtefactId
from controlplane.domain.owner import OwnerTag
from drivers.opennebula import mapping
from drivers.opennebula.mapping import Record

BACKUP_IMAGE = 6
_NONE = -1  # the parent of a full backup
VM = "FEDCTL_VM"  # whose backups an image holds, as the folder is named after it
GONE = "gone"  # the mark of what was ours


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """A disk at one moment: its qcow2 files, the newest first, and its length in bytes."""

    paths: tuple[str, ...]
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A backup that carries our tag: the one of that number in an image.

    `disks` tells each volume's disk and length; `folders` where this backup and those that it
    builds on lie, the newest first, each with its number.
    """

    image: int
    number: int
    owner: OwnerTag
    vm: int
    disks: Mapping[str, tuple[int, int]]
    folders: tuple[tuple[int, str], ...]
    leaving: bool = False

    @property
    def ref(self) -> str:
        return f"{self.vm}/{self.owner.artefact.hex}"

    def files(self, volume: str) -> Files | None:
        """Paths beneath the datastores; None for a volume not in it, or a chain without its end."""
        if volume not in self.disks or not self.folders:
            return None
        disk, size = self.disks[volume]
        return Files(paths=tuple(f"{at}/disk.{disk}.{n}" for n, at in self.folders), size=size)

    def since(self, earlier: "Point") -> int:
        """How many files hold what changed since an earlier point; 0 where that cannot be told."""
        numbers = [number for number, _ in self.folders]
        if earlier.image != self.image or earlier.number not in numbers:
            return 0
        return numbers.index(earlier.number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """An image of backups: the folder, parent (-1: full) and mark of each by its number."""

    image: int
    vm: int
    leaving: bool
    folders: Mapping[int, tuple[str, int]]
    marks: Mapping[int, str] = field(default_factory=dict)

    @property
    def foreign(self) -> bool:
        """Whether a backup in it is and was none of ours."""
        return any(not mark for mark in self.marks.values())

    def points(self) -> list[Point]:
        found = (self._point(number, mark) for number, mark in self.marks.items())
        return [point for point in found if point is not None]

    def _point(self, number: int, mark: str) -> Point | None:
        try:
            kept = json.loads(mark)
            owner = mapping.owner_of(str(kept["owner"]))
            disks = {str(v): (int(disk), int(size)) for v, (disk, size) in kept["disks"].items()}
        except (ValueError, TypeError, LookupError, AttributeError):
            return None
        if owner is None:
            return None
        return Point(
            image=self.image,
            number=number,
            owner=owner,
            vm=self.vm,
            disks=disks,
            folders=tuple(self._below(number)),
            leaving=self.leaving,
        )

    def _below(self, number: int) -> list[tuple[int, str]]:
        """It and those that it builds on, down to a full one; nothing where that is gone."""
        out: list[tuple[int, str]] = []
        while number in self.folders and len(out) < len(self.folders):
            place, parent = self.folders[number]
            out.append((number, place))
            number = parent
        return out if number == _NONE else []


def chain(record: Record) -> Chain | None:
    """What an image record tells; None for what is no backup of one VM."""
    users = [each.number(".") for each in record.all("VMS/ID")]
    if not users and (noted := record.text(f"TEMPLATE/{VM}")).isdecimal():
        users = [int(noted)]
    if record.number("TYPE") != BACKUP_IMAGE or len(users) != 1:
        return None
    place = f"{record.number('DATASTORE_ID')}/{users[0]}"
    folders = {
        each.number("ID"): (f"{place}/{each.text('SOURCE')}", each.number("PARENT_ID"))
        for each in record.all("BACKUP_INCREMENTS/INCREMENT")
    } or {0: (f"{place}/{record.text('SOURCE')}", _NONE)}
    return Chain(
        image=record.number("ID"),
        vm=users[0],
        leaving=record.number("STATE") == mapping.DELETE,
        folders=folders,
        marks={number: record.text(f"TEMPLATE/{key(number)}") for number in folders},
    )


def key(number: int) -> str:
    """The attribute of an image that says whose its backup of that number is."""
    return f"FEDCTL_POINT_{number}"


def mark(owner: OwnerTag, disks: Mapping[str, tuple[int, int]]) -> str:
    return json.dumps({"owner": owner.text(), "disks": disks})


def marked(text: Mark) -> ArtefactId | None:
    """The point that a mark of ours names."""
    _, _, name = text.text.partition("/")
    try:
        return ArtefactId(UUID(hex=name))
    except ValueError:
        return None
