"""Which points were committed in one group, and of which groups a head is missing."""

from collections.abc import Collection, Iterator

from controlplane.domain.ids import GroupId, PointId
from controlplane.vault.heads import Head


class Groups:
    """Filled from heads, each of which says how many belong to its group."""

    def __init__(self) -> None:
        self._heads: dict[GroupId, dict[PointId, Head]] = {}

    def see(self, head: Head) -> None:
        if head.group is not None:
            self._heads.setdefault(head.group.group, {})[head.point] = head

    def beside(self, lost: Collection[PointId]) -> Iterator[tuple[PointId, str]]:
        """Points that are not lost themselves and whose group lost one, and why."""
        for group, heads in self._heads.items():
            names = ", ".join(str(point) for point in heads if point in lost)
            for point, head in heads.items():
                if names and point not in lost:
                    why = (
                        f"recovery point {point} of instance {head.instance}: its group {group} is"
                        f" not whole any more, recovery point {names} is missing"
                    )
                    yield point, why

    def broken(self) -> dict[GroupId, str]:
        """Groups of which fewer heads were seen than they have members, and what was seen."""
        return {
            group: f"{len(heads)} of its {_members(heads.values())} recovery points are there"
            f" ({', '.join(str(point) for point in heads)}); its instances fit together only in a"
            " whole group"
            for group, heads in self._heads.items()
            if len(heads) != _members(heads.values())
        }


def _members(heads: Collection[Head]) -> int:
    return max(head.group.members for head in heads if head.group is not None)
