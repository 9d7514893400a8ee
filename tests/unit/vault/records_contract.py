"""What every implementation of the vault's records keeps; subclasses give the `records` fixture."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from controlplane.domain.errors import Conflict
from controlplane.domain.ids import InstanceId, PointId, TenantName
from controlplane.domain.vault import (
    Commitment,
    Damage,
    DiskCopied,
    Layout,
    LeafDone,
    PackNew,
    PackState,
    PointRecord,
    Ref,
    Session,
)
from controlplane.vault.ports import (
    VaultRecords,
)

AT = datetime(2026, 11, 1, 12, 30, 15, 250, tzinfo=UTC)
REF = Ref(pack=b"\1" * 32, position=3, id=b"\2" * 32, digest=b"\3" * 32)
LAYOUT = Layout(size=10**9 + 1, chunk=65536)
COPIED = DiskCopied(
    disk=0, size=10**9 + 1, chunk=65536, digest="ab", top=REF, chunks=9,
    bytes_read=8, bytes_new=7, bytes_stored=6,
)  # fmt: skip


def point(number: int) -> PointId:
    return PointId(UUID(int=number))


def pack(number: int) -> bytes:
    return bytes([number]) * 32


def leaf(index: int, ref: Ref | None = REF) -> LeafDone:
    return LeafDone(index=index, ref=ref, chunks=1, read=2, fresh=3, stored=4)


def record(number: int, sequence: int, **more: object) -> PointRecord:
    given = {
        "point": point(number),
        "domain": "acme/shop",
        "tenant": TenantName("acme"),
        "instance": InstanceId(UUID(int=99)),
        "sequence": sequence,
        "head": b"head %d" % number,
        "root": f"root{number}",
        "disks": (COPIED,),
        "committed_at": AT,
        **more,
    }
    return PointRecord(**given)  # type: ignore[arg-type]


class RecordsContract:
    """Run it as `class TestMine(RecordsContract)` with a fixture `records`."""

    def begin(self, records: VaultRecords, number: int, *, disk: int = 0, attempt: int = 1):
        return records.begin(
            point=point(number), disk=disk, domain="acme/shop", attempt=attempt, layout=LAYOUT
        )

    def sealed(self, records: VaultRecords, session: Session, number: int, *leaves: LeafDone):
        records.open_pack(PackNew(pack=pack(number), domain=session.domain, session=session))
        records.seal(session, pack(number), leaves)
        return pack(number)

    def verified(self, records: VaultRecords, session: Session, number: int) -> bytes:
        name = self.sealed(records, session, number)
        records.verified(name)
        return name

    def refused(self, reason: str, *calls):
        for call in calls:
            with pytest.raises(Conflict) as caught:
                call()
            assert caught.value.reason == reason

    def test_a_session_keeps_its_coverage_for_a_successor(self, records):
        first = self.begin(records, 1)
        assert (first.covered, first.copied, first.layout) == ({}, None, LAYOUT)
        self.sealed(records, first, 1, leaf(0), leaf(70_000, None))
        second = self.begin(records, 1, attempt=2)
        assert second.covered == {0: leaf(0), 70_000: leaf(70_000, None)}
        assert second.token != first.token
        records.uncover(second, {0})
        records.finish(second, COPIED)
        third = self.begin(records, 1, attempt=2)
        assert (third.covered.keys(), third.copied) == ({70_000}, COPIED)
        records.uncover(third, {70_000})
        assert self.begin(records, 1, attempt=2).copied is None
        (seen,) = records.sessions(point(1))
        assert (seen.disk, seen.attempt, seen.copied) == (0, 2, None)

    def test_the_layout_of_the_first_attempt_stays(self, records):
        self.begin(records, 1)
        other = Layout(size=LAYOUT.size, chunk=65536 * 4)
        again = records.begin(point=point(1), disk=0, domain="acme/shop", attempt=2, layout=other)
        assert again.layout == LAYOUT
        for domain, size in (("other", LAYOUT.size), ("acme/shop", 5)):
            with pytest.raises(Conflict):
                records.begin(
                    point=point(1), disk=0, domain=domain, attempt=3,
                    layout=Layout(size=size, chunk=65536),
                )  # fmt: skip

    def test_an_old_token_does_nothing(self, records):
        old = self.begin(records, 1)
        records.open_pack(PackNew(pack=pack(1), domain="acme/shop", session=old))
        self.begin(records, 1)
        self.refused(
            "superseded",
            lambda: records.open_pack(PackNew(pack=pack(2), domain="acme/shop", session=old)),
            lambda: records.seal(old, pack(1), [leaf(0)]),
            lambda: records.uncover(old, {0}),
            lambda: records.finish(old, COPIED),
        )
        assert records.states([pack(1), pack(2)]) == {pack(1): PackState.CONDEMNED}
        assert self.begin(records, 1).covered == {}

    def test_a_lower_attempt_does_not_begin(self, records):
        self.begin(records, 1, attempt=3)
        self.refused("superseded", lambda: self.begin(records, 1, attempt=2))
        self.begin(records, 1, disk=1, attempt=1)

    def test_packs_go_through_their_states(self, records):
        session = self.begin(records, 1)
        records.open_pack(PackNew(pack=pack(1), domain="acme/shop", session=session))
        assert records.states([pack(1), pack(9)]) == {pack(1): PackState.OPEN}
        with pytest.raises(Conflict):
            records.verified(pack(1))
        records.seal(session, pack(1), [])
        assert records.session_packs(point(1)) == {pack(1): PackState.SEALED}
        assert records.verified_packs("acme/shop") == frozenset()
        records.verified(pack(1))
        records.verified(pack(1))
        assert records.verified_packs("acme/shop") == {pack(1)}
        assert records.verified_packs("other") == frozenset()
        assert records.known_packs() == {pack(1)}

    def test_a_point_may_hold_more_packs_later(self, records):
        session = self.begin(records, 1)
        own = self.verified(records, session, 1)
        records.commit(record(1, 1), packs={own}, attempt=1)
        session = self.begin(records, 2)
        other = self.verified(records, session, 2)
        records.commit(record(2, 2), packs={other}, attempt=1)
        assert records.holders({own}) == {point(1)}
        for _ in range(2):
            records.hold(point(1), {own, other, pack(9)})
        records.hold(point(9), {other})
        assert records.holders({other}) == {point(1), point(2)}
        records.forget(point(2))
        assert records.condemn(AT) == 0
        records.forget(point(1))
        assert records.condemn(AT) == 2
        assert records.holders({own, other}) == frozenset()

    def test_a_commit_makes_the_point_and_closes_its_sessions(self, records):
        session = self.begin(records, 1)
        name = self.verified(records, session, 1)
        records.commit(record(1, 1), packs={name}, attempt=1)
        assert records.point(point(1)) == record(1, 1) == records.points()[0]
        assert records.last(TenantName("acme"), InstanceId(UUID(int=99))) == record(1, 1)
        assert records.last(TenantName("other"), InstanceId(UUID(int=99))) is None
        assert records.sessions(point(1)) == ()
        assert records.session_packs(point(1)) == {}
        self.refused(
            "superseded",
            lambda: self.begin(records, 1, attempt=9),
            lambda: records.seal(session, name, []),
        )

    def test_a_commit_refuses_what_is_old_unproven_condemned_or_out_of_turn(self, records):
        session = self.begin(records, 1, attempt=2)
        good, unproven = self.verified(records, session, 1), self.sealed(records, session, 2)
        self.refused("superseded", lambda: records.commit(record(1, 1), packs={good}, attempt=1))
        self.refused(
            "condemned",
            lambda: records.commit(record(1, 1), packs={good, unproven}, attempt=2),
            lambda: records.commit(record(1, 1), packs={good, pack(77)}, attempt=2),
        )
        self.refused("raced", lambda: records.commit(record(1, 2), packs={good}, attempt=2))
        assert records.points() == ()
        records.commit(record(1, 1), packs={good}, attempt=2)
        self.begin(records, 2)
        self.refused("raced", lambda: records.commit(record(2, 1), packs=(), attempt=1))
        records.forget(point(1))
        self.refused("raced", lambda: records.commit(record(2, 1), packs=(), attempt=1))
        records.condemn(AT)
        self.refused("condemned", lambda: records.commit(record(2, 2), packs={good}, attempt=1))
        records.commit(record(2, 2), packs=(), attempt=1)

    def test_a_group_is_committed_whole_or_not_at_all(self, records):
        packs = [self.verified(records, self.begin(records, n, attempt=2), n) for n in (1, 2)]
        self.sealed(records, self.begin(records, 3, disk=1), 3)
        whose = [InstanceId(UUID(int=90 + n)) for n in (1, 2)]
        whole = [
            Commitment(record=record(n, 1, instance=i), packs=frozenset({p}), attempt=2)
            for n, i, p in zip((1, 2), whose, packs, strict=True)
        ]

        def spoiled(**other: object) -> list[Commitment]:
            return [whole[0], replace(whole[1], **other)]

        late, twice = record(2, 2, instance=whose[1]), record(2, 1, instance=whose[0])
        for reason, group in {
            "superseded": spoiled(attempt=1),
            "condemned": spoiled(packs=frozenset({packs[1], pack(3)})),
            "raced": spoiled(record=late),
        }.items():
            self.refused(reason, lambda group=group: records.commit_group(group))
            self.refused(reason, lambda group=group: records.commit_group(group[::-1]))
            assert records.points() == ()
            assert [records.last(TenantName("acme"), i) for i in whose] == [None, None]
            assert len(records.sessions(point(1))) == len(records.sessions(point(2))) == 1
            assert records.session_packs(point(1)) == {packs[0]: PackState.VERIFIED}
        self.refused("raced", lambda: records.commit_group(spoiled(record=twice)))
        records.commit_group(whole)
        assert {r.point for r in records.points()} == {point(1), point(2)}
        assert [records.last(TenantName("acme"), i).sequence for i in whose] == [1, 1]
        assert records.sessions(point(1)) == records.sessions(point(2)) == ()
        self.refused("superseded", lambda: records.commit_group(whole))
        assert records.condemn(AT) == 0
        records.forget(point(1))
        assert records.condemn(AT) == 1

    def test_forgetting_keeps_the_number_and_frees_the_packs(self, records):
        name = self.verified(records, self.begin(records, 1), 1)
        records.commit(record(1, 1), packs={name}, attempt=1)
        assert records.condemn(AT) == 0
        records.forget(point(1))
        records.forget(point(1))
        assert records.point(point(1)) is None
        assert records.points() == ()
        assert records.last(TenantName("acme"), InstanceId(UUID(int=99))).sequence == 1
        assert records.condemn(AT) == 1
        assert records.condemn(AT) == 0
        with pytest.raises(Conflict):
            records.verified(name)

    def test_how_many_points_there_are_and_since_when_is_told(self, records):
        assert records.committed() == (0, None)
        one = self.verified(records, self.begin(records, 1), 1)
        records.commit(record(1, 1), packs={one}, attempt=1)
        other = self.verified(records, self.begin(records, 2), 2)
        later = replace(record(2, 2), committed_at=record(1, 1).committed_at + timedelta(hours=1))
        records.commit(later, packs={other}, attempt=1)
        assert records.committed() == (2, later.committed_at)
        records.forget(point(2))
        assert records.committed() == (1, record(1, 1).committed_at)

    def test_deleting_waits_for_time_and_for_earlier_sessions(self, records):
        name = self.verified(records, self.begin(records, 1), 1)
        records.commit(record(1, 1), packs={name}, attempt=1)
        self.begin(records, 2)
        records.forget(point(1))
        records.condemn(AT)
        self.begin(records, 3)
        assert records.deletable(AT) == ()
        records.abandon(point(2))
        assert records.deletable(AT - timedelta(seconds=1)) == ()
        assert records.deletable(AT) == (name,)
        self.begin(records, 4)
        assert records.deletable(AT + timedelta(hours=1)) == (name,)
        records.deleted(name)
        records.deleted(name)
        assert records.known_packs() == frozenset()

    def test_packs_of_an_open_session_are_condemned_only_when_it_is_abandoned(self, records):
        session = self.begin(records, 1)
        records.open_pack(PackNew(pack=pack(1), domain="acme/shop", session=session))
        sealed = self.sealed(records, session, 2)
        assert records.condemn(AT) == 0
        assert records.states([pack(1), sealed])[sealed] is PackState.SEALED
        records.abandon(point(1))
        records.abandon(point(1))
        records.condemn(AT)
        assert set(records.deletable(AT)) == {pack(1), sealed}
        self.refused("superseded", lambda: records.finish(session, COPIED))
        self.refused("superseded", lambda: self.begin(records, 1, attempt=5))

    def test_a_pack_that_lost_its_writer_is_deleted_after_the_holding_time_too(self, records):
        old = self.begin(records, 1)
        records.open_pack(PackNew(pack=pack(1), domain="acme/shop", session=old))
        session = self.begin(records, 1, attempt=2)
        records.condemn(AT)
        assert records.deletable(AT) == ()
        records.commit(record(1, 1), packs=(), attempt=2)
        assert session.attempt == 2
        assert records.deletable(AT - timedelta(seconds=1)) == ()
        assert records.deletable(AT) == (pack(1),)

    def test_damages_are_remembered_until_the_pack_is_gone(self, records):
        name = self.verified(records, self.begin(records, 1), 1)
        one = Damage(domain="acme/shop", pack=name, position=4)
        whole = Damage(domain="acme/shop", pack=name)
        for damage in (one, whole, one):
            records.damage(damage)
        assert records.damaged("acme/shop") == {one, whole}
        assert records.damaged("other") == frozenset()
        records.deleted(name)
        assert records.damaged("acme/shop") == frozenset()

    def test_damages_of_a_mended_pack_are_forgotten_and_others_are_not(self, records):
        session = self.begin(records, 1)
        for number in (1, 2):
            self.sealed(records, session, number, leaf(number))
        for number in (1, 2):
            for position in (4, None):
                records.damage(Damage(domain="acme/shop", pack=pack(number), position=position))
        for _ in range(2):
            records.mended(pack(1))
        assert {damage.pack for damage in records.damaged("acme/shop")} == {pack(2)}

    def test_a_point_that_the_store_shows_is_adopted_with_its_packs(self, records):
        session = self.begin(records, 1)
        self.sealed(records, session, 1, leaf(0))
        assert records.open_points() == (point(1),)
        for _ in range(2):
            records.adopt(record(1, 4), packs={pack(1), pack(2)}, retained=True)
        assert records.open_points() == ()
        assert records.point(point(1)) == record(1, 4)
        assert records.verified_packs("acme/shop") == {pack(1), pack(2)}
        assert records.condemn(AT) == 0
        self.refused("superseded", lambda: self.begin(records, 1, attempt=9))

    def test_a_point_that_is_adopted_by_name_keeps_its_number_used(self, records):
        records.adopt(record(1, 4), packs=(), retained=False)
        assert records.point(point(1)) is None
        assert records.points() == ()
        last = records.last(TenantName("acme"), InstanceId(UUID(int=99)))
        assert last == record(1, 4)
        with pytest.raises(Conflict, match="comes before"):
            records.adopt(record(2, 3), packs=(), retained=True)

    def test_domains_and_their_packs_are_listed_in_order(self, records):
        assert records.domains() == ()
        session = self.begin(records, 1)
        for number in (3, 1, 2):
            self.verified(records, session, number)
        self.sealed(records, session, 4)
        states = {1: "verified", 2: "verified", 3: "verified", 4: "sealed"}
        assert records.domains() == ("acme/shop",)
        found = records.packs_of("acme/shop", after=b"", limit=10)
        assert found == tuple((pack(n), PackState(state)) for n, state in states.items())
        assert records.packs_of("acme/shop", after=pack(1), limit=2) == found[1:3]
        assert records.packs_of("acme/shop", after=pack(4), limit=2) == ()
        assert records.packs_of("acme/other", after=b"", limit=2) == ()
        records.commit(record(2, 1, domain="acme/empty", disks=()), packs=(), attempt=1)
        assert records.domains() == ("acme/empty", "acme/shop")
        records.forget(point(2))
        assert records.domains() == ("acme/shop",)
