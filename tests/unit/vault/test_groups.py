"""Points of several instances are one group: all of them stand, or none does."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.errors import Conflict, Integrity, Invalid, Unavailable
from controlplane.domain.ids import GroupId, InstanceId
from controlplane.domain.vault import Depth, InGroup, Moment
from controlplane.vault.checking import CheckOrder
from controlplane.vault.heads import Head, head_name, read_head, sign_head
from controlplane.vault.memory import MemoryRecords
from controlplane.vault.nouns import Member
from tests.unit.vault.support import (
    CHUNK,
    DOMAIN,
    TENANT,
    Seal,
    commit,
    copy,
    new_point,
    read_all,
    some_disk,
)
from tests.unit.vault.test_recall import backup, domain_of

GROUP = GroupId(UUID(int=70))
A, B, C = (InstanceId(UUID(int=n)) for n in (71, 72, 73))
ASKED = datetime(2026, 11, 30, 10, 0, 0, 5, tzinfo=UTC)


def moment(late: int = 0) -> Moment:
    asked = ASKED + timedelta(milliseconds=late)
    return Moment(asked=asked, answered=asked + timedelta(seconds=1))


def member(vault, instance: InstanceId, seed: int, **more) -> Member:
    """Copied, and not committed yet."""
    point = new_point()
    copy(vault, some_disk(seed, "RZT"), point=point)
    given = {
        "point": point, "disks": (0,), "domain": DOMAIN, "instance": instance, "attempt": 1,
        "taken": moment(seed), **more,
    }  # fmt: skip
    return Member(**given)  # type: ignore[arg-type]


def heads(world) -> list[Head]:
    return [read_head(path.read_bytes(), Seal(), what=path.name) for path in world.files("heads")]


class CrashingRecords(MemoryRecords):
    """The process dies right after the transaction of the group."""

    def commit_group(self, group) -> None:
        super().commit_group(group)
        raise Unavailable("died")


class FullAfter:
    """A store that takes so many heads and then none."""

    def __init__(self, objects, heads: int) -> None:
        self._objects, self._left = objects, heads

    def __getattr__(self, name: str):
        return getattr(self._objects, name)

    def put(self, name: str, data: bytes) -> None:
        if name.startswith("heads/"):
            self._left -= 1
            if self._left < 0:
                raise Unavailable("away")
        self._objects.put(name, data)


def test_every_head_tells_the_group_and_when_its_snapshot_was_taken(world, vault):
    alone = new_point()
    copy(vault, some_disk(1, "R"), point=alone)
    commit(vault, alone, instance=A)
    members = [member(vault, i, seed) for seed, i in enumerate((A, B, C), start=2)]
    done = vault.commit_group(GROUP, tenant=TENANT, members=members)
    assert [(d.point, d.sequence) for d in done] == [
        (m.point, 2 if m.instance == A else 1) for m in members
    ]
    assert vault.commit_group(GROUP, tenant=TENANT, members=members) == done
    told = {head.point: head.group for head in heads(world) if head.group}
    assert told == {m.point: InGroup(group=GROUP, members=3, taken=m.taken) for m in members}
    for seed, each in enumerate(members, start=2):
        assert read_all(world.vault(), each.point) == some_disk(seed, "RZT")
    assert vault.survey() == ()


def test_one_member_that_does_not_read_back_keeps_all_from_standing(world, vault):
    members = [member(vault, A, 1), member(vault, B, 2)]
    spoiled = max(world.files("packs"), key=lambda path: path.stat().st_mtime_ns)
    sound = spoiled.read_bytes()
    spoiled.write_bytes(sound[:1000] + bytes([sound[1000] ^ 1]) + sound[1001:])
    with pytest.raises(Integrity, match=r"disk 0 from offset 0"):
        vault.commit_group(GROUP, tenant=TENANT, members=members)
    assert world.records.points() == ()
    assert world.files("heads") == []


def test_one_member_that_was_never_copied_whole_keeps_all_from_standing(world, vault):
    members = [member(vault, A, 1), member(vault, B, 2, disks=(0, 1))]
    with pytest.raises(Conflict, match="complete"):
        vault.commit_group(GROUP, tenant=TENANT, members=members)
    assert world.records.points() == ()
    vault.commit_group(GROUP, tenant=TENANT, members=[members[0], replace(members[1], disks=(0,))])
    assert len(world.records.points()) == 2


def test_a_group_takes_each_instance_once_and_at_least_one(vault):
    twice = [member(vault, A, 1), member(vault, A, 2)]
    for members in ([], twice):
        with pytest.raises(Invalid):
            vault.commit_group(GROUP, tenant=TENANT, members=members)


def test_a_repeat_publishes_the_heads_that_a_crash_left_out(world):
    world.records = CrashingRecords()
    vault = world.vault()
    members = [member(vault, A, 1), member(vault, B, 2), member(vault, C, 3)]
    with pytest.raises(Unavailable):
        vault.commit_group(GROUP, tenant=TENANT, members=members)
    assert len(world.records.points()) == 3
    assert heads(world) == []
    half = world.vault(objects=FullAfter(world.objects, 2))
    with pytest.raises(Unavailable):
        half.commit_group(GROUP, tenant=TENANT, members=members)
    assert len(heads(world)) == 2
    named = dict(world.vault().survey())
    assert set(named) == {m.point for m in members}
    assert "lost or hides" in named[members[2].point]
    assert str(members[2].point) in named[members[0].point]
    done = world.vault().commit_group(GROUP, tenant=TENANT, members=members)
    assert [d.point for d in done] == [m.point for m in members]
    assert {head.point for head in heads(world)} == {m.point for m in members}
    assert world.vault().survey() == ()


def test_a_point_that_was_committed_meanwhile_is_built_upon(world):
    """Another process takes the number between the group's look and its transaction."""

    class Raced(MemoryRecords):
        races = 2

        def commit_group(self, group) -> None:
            if self.races:
                self.races -= 1
                point = new_point()
                copy(other, some_disk(9, "R"), point=point)
                commit(other, point, instance=B)
            super().commit_group(group)

    world.records = Raced()
    vault, other = world.vault(), world.vault()
    members = [member(vault, A, 1), member(vault, B, 2)]
    done = vault.commit_group(GROUP, tenant=TENANT, members=members)
    assert [d.sequence for d in done] == [1, 3]
    assert vault.survey() == ()


def test_a_group_whose_point_was_forgotten_is_not_committed_again(vault):
    members = [member(vault, A, 1), member(vault, B, 2)]
    vault.commit_group(GROUP, tenant=TENANT, members=members)
    vault.forget(members[1].point)
    with pytest.raises(Conflict, match=str(members[1].point)):
        vault.commit_group(GROUP, tenant=TENANT, members=members)


def test_a_restored_control_plane_finds_the_whole_group_or_names_what_is_missing(world, vault):
    kept = backup(world)
    members = [member(vault, A, 1), member(vault, B, 2)]
    vault.commit_group(GROUP, tenant=TENANT, members=members)
    whole = backup(world)
    world.records = kept
    recalled = world.vault().recall(domain_of)
    assert (recalled.points, recalled.broken_groups) == (2, ())
    assert world.vault().recall(domain_of).broken_groups == ()

    lost = next(head for head in heads(world) if head.point == members[1].point)
    world.objects.delete(head_name(lost))
    world.records = MemoryRecords()
    (named,) = world.vault().recall(domain_of).broken_groups
    assert str(GROUP) in named
    assert "1 of its 2" in named
    assert str(members[0].point) in named
    assert read_all(world.vault(), members[0].point)[:CHUNK] == some_disk(1, "RZT")[:CHUNK]

    world.records = whole
    assert {point for point, _ in world.vault().survey()} == {m.point for m in members}


def test_a_check_names_the_group_of_which_a_head_is_missing(world, vault):
    members = [member(vault, A, 1), member(vault, B, 2), member(vault, C, 3)]
    vault.commit_group(GROUP, tenant=TENANT, members=members)
    structure = CheckOrder(depth=Depth.STRUCTURE)
    assert checked(vault, structure).findings == ()
    lost = next(head for head in heads(world) if head.point == members[1].point)
    world.objects.delete(head_name(lost))
    vault.forget(members[1].point)  # so that no record misses it
    [found] = checked(vault, structure).findings
    assert (found.id, found.subject) == ("VLT11", f"group {GROUP}")
    assert "2 of its 3" in found.evidence


def checked(vault, order: CheckOrder):
    return vault.check(order, name=lambda tenant, instance: f"{tenant}/{instance.int}")


times = st.integers(0, 10**15).map(lambda us: ASKED + timedelta(microseconds=us))


@given(times, times, st.uuids(), st.integers(1, 10_000))
def test_a_head_keeps_its_group_to_the_microsecond(asked, answered, group, members):
    taken = Moment(asked=min(asked, answered), answered=max(asked, answered))
    head = Head(
        tenant=TENANT, instance=A, point=new_point(), sequence=4, previous="", key_ids=("k",),
        mark="", root="r", group=InGroup(group=GroupId(group), members=members, taken=taken),
    )  # fmt: skip
    signed = sign_head(head, Seal())
    assert read_head(signed, Seal(), what="it") == head
    without = sign_head(replace(head, group=None), Seal())
    assert b"group" not in without
    assert read_head(without, Seal(), what="it").group is None
