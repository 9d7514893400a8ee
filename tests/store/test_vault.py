"""The vault's records in the database do what the vault's own reference in memory does."""

from dataclasses import asdict, replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from controlplane.domain.errors import SUPERSEDED, Conflict, FedctlError
from controlplane.domain.ids import InstanceId, PointId, TenantName
from controlplane.domain.vault import (
    CONDEMNED,
    RACED,
    Damage,
    DiskCopied,
    Layout,
    LeafDone,
    PackNew,
    PackState,
    PointRecord,
    Ref,
)
from controlplane.store.ports import StoredVault
from controlplane.store.schema import METADATA
from controlplane.vault.memory import MemoryRecords
from controlplane.vault.ports import VaultRecords
from tests.store.nouns import SECOND, T0, at_once
from tests.unit.vault.records_contract import RecordsContract

TENANT = TenantName("acme")
INSTANCES = [InstanceId(UUID(int=n)) for n in (1, 2)]
POINTS = [PointId(UUID(int=n)) for n in (11, 12, 13, 14)]
DOMAINS = ["acme/shop", "acme/lab"]
LAYOUT = Layout(size=2**40 + 5, chunk=65536)


def leaf(index, pack=None):
    ref = None if pack is None else Ref(pack=pack, position=index, id=b"\0i", digest=b"d\xff")
    return LeafDone(index=index, ref=ref, chunks=3, read=2**40, fresh=2, stored=1)


def copied(disk=0, pack=b"p"):
    return DiskCopied(
        disk=disk, size=LAYOUT.size, chunk=LAYOUT.chunk, digest="abc", chunks=4, bytes_read=2**41,
        top=None if disk else Ref(pack=pack, position=9, id=b"\0", digest=b"\xff"), bytes_new=3, bytes_stored=2,
    )  # fmt: skip


def record(point, sequence=1, instance=INSTANCES[0], disks=()):
    return PointRecord(
        point=point, domain=DOMAINS[0], tenant=TENANT, instance=instance, sequence=sequence,
        head=b"\0head", root="root", disks=disks, committed_at=T0 + sequence * SECOND,
    )  # fmt: skip


def clear(store):
    with store.begin() as tx:
        for table in reversed(METADATA.sorted_tables):
            if table.name.startswith("vault_"):
                tx.outbox._session.execute(table.delete())


@pytest.fixture
def records(store):
    clear(store)
    stored: VaultRecords = StoredVault(store)
    return stored


class TwoVaults(RuleBasedStateMachine):
    """Every act is done to both; both must answer alike and then look alike."""

    def __init__(self, store):
        super().__init__()
        clear(store)
        self.sides = (MemoryRecords(), StoredVault(store))
        self.sessions = []
        self.packs = []
        self.clock = T0

    def both(self, act, *each):
        """What both answered, or the kind of refusal."""
        answers = []
        for side, *own in (
            zip(self.sides, *each, strict=True) if each else [(s,) for s in self.sides]
        ):
            try:
                answers.append(act(side, *own))
            except FedctlError as e:
                answers.append((type(e), e.reason))
        return answers

    def alike(self, act, *each):
        memory, stored = self.both(act, *each)
        assert stored == memory
        return stored

    @rule(
        point=st.sampled_from(POINTS), disk=st.integers(0, 1), attempt=st.integers(1, 3),
        domain=st.sampled_from([DOMAINS[0]] * 5 + DOMAINS[1:]), size=st.sampled_from([LAYOUT.size] * 5 + [7]),
    )  # fmt: skip
    def begin(self, point, disk, attempt, domain, size):
        layout = replace(LAYOUT, size=size)
        answers = self.both(
            lambda side: side.begin(
                point=point, disk=disk, domain=domain, attempt=attempt, layout=layout
            )
        )
        if isinstance(answers[0], tuple):
            assert answers[1] == answers[0]
        else:
            seen = [{**asdict(answer), "token": ""} for answer in answers]
            assert seen[1] == seen[0]
            self.sessions.append(tuple(answers))

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def open_pack(self, data):
        pair = data.draw(st.sampled_from(self.sessions))
        pack = uuid4().bytes
        answer = self.alike(
            lambda side, session: side.open_pack(
                PackNew(pack=pack, domain=session.domain, session=session)
            ),
            pair,
        )
        if answer is None:
            self.packs.append(pack)

    @precondition(lambda self: self.sessions and self.packs)
    @rule(data=st.data(), leaves=st.lists(st.integers(0, 3), max_size=3, unique=True))
    def seal(self, data, leaves):
        pair = data.draw(st.sampled_from(self.sessions))
        pack = data.draw(st.sampled_from(self.packs))
        done = [leaf(n, pack if n % 2 else None) for n in leaves]
        self.alike(lambda side, session: side.seal(session, pack, done), pair)

    @precondition(lambda self: self.sessions)
    @rule(data=st.data(), leaves=st.sets(st.integers(0, 3)))
    def uncover(self, data, leaves):
        pair = data.draw(st.sampled_from(self.sessions))
        self.alike(lambda side, session: side.uncover(session, leaves), pair)

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def finish(self, data):
        pair = data.draw(st.sampled_from(self.sessions))
        self.alike(lambda side, session: side.finish(session, copied(session.disk)), pair)

    @precondition(lambda self: self.packs)
    @rule(data=st.data())
    def verified(self, data):
        pack = data.draw(st.sampled_from(self.packs))
        self.alike(lambda side: side.verified(pack))

    @precondition(lambda self: self.packs)
    @rule(data=st.data(), position=st.none() | st.integers(0, 1))
    def damage(self, data, position):
        pack = data.draw(st.sampled_from(self.packs))
        self.alike(
            lambda side: side.damage(Damage(domain=DOMAINS[0], pack=pack, position=position))
        )

    @rule(
        point=st.sampled_from(POINTS), instance=st.sampled_from(INSTANCES), attempt=st.integers(1, 3),
        ahead=st.sampled_from([1, 1, 1, 0, 2]), data=st.data(),
    )  # fmt: skip
    def commit(self, point, instance, attempt, ahead, data):
        last = self.sides[0].last(TENANT, instance)
        wish = record(
            point, (last.sequence if last else 0) + ahead, instance, (copied(0), copied(1))
        )
        usable = [p for p, state in self.sides[0].states(self.packs).items() if state == "verified"]
        some = data.draw(
            st.sets(st.sampled_from(usable + self.packs[:1])) if self.packs else st.just(set())
        )
        self.alike(lambda side: side.commit(wish, packs=some, attempt=attempt))

    @rule(point=st.sampled_from(POINTS))
    def forget(self, point):
        self.alike(lambda side: side.forget(point))

    @rule(point=st.sampled_from(POINTS))
    def abandon(self, point):
        self.alike(lambda side: side.abandon(point))

    @rule()
    def condemn(self):
        self.clock += SECOND
        self.alike(lambda side: side.condemn(self.clock))

    @rule()
    def collect(self):
        for pack in self.alike(lambda side: set(side.deletable(self.clock - SECOND / 2))):
            self.alike(lambda side, pack=pack: side.deleted(pack))
            self.packs.remove(pack)

    @invariant()
    def look_alike(self):
        def look(side):
            return {
                "sessions": [
                    [{**asdict(s), "token": "", "covered": {}} for s in side.sessions(point)]
                    for point in POINTS
                ],
                "session packs": [dict(side.session_packs(point)) for point in POINTS],
                "states": dict(side.states([*self.packs, b"unknown"])),
                "usable": [side.verified_packs(domain) for domain in DOMAINS],
                "damaged": [
                    {(d.pack, d.position) for d in side.damaged(domain)} for domain in DOMAINS
                ],
                "last": [side.last(TENANT, instance) for instance in INSTANCES],
                "points": [side.point(point) for point in POINTS],
                "retained": {p.point for p in side.points()},
                "deletable": set(side.deletable(self.clock)),
                "known": side.known_packs(),
            }

        self.alike(look)


def test_the_database_answers_as_the_reference_does(store):
    # Six stories of up to twenty-five acts, each looked at from all sides: a few seconds.
    run_state_machine_as_test(
        lambda: TwoVaults(store),
        settings=settings(max_examples=6, stateful_step_count=25, deadline=None),
    )


def written(records, point, *, pack=None, verify=True):
    """A session of the point with one verified pack."""
    pack = pack or uuid4().bytes
    session = records.begin(point=point, disk=0, domain=DOMAINS[0], attempt=1, layout=LAYOUT)
    records.open_pack(PackNew(pack=pack, domain=DOMAINS[0], session=session))
    records.seal(session, pack, [leaf(0, pack)])
    if verify:
        records.verified(pack)
    return session, pack


@pytest.mark.parametrize("day", range(4))
def test_a_commit_races_collection_and_one_of_them_has_the_pack(records, day):
    first, second, at = PointId(uuid4()), PointId(uuid4()), T0 + day * timedelta(days=1)
    _, pack = written(records, first)
    records.abandon(first)
    committed, _ = at_once(
        lambda: records.commit(record(second), packs=[pack], attempt=1),
        lambda: records.condemn(at),
    )
    if committed is None:
        assert records.states([pack]) == {pack: PackState.VERIFIED}
        assert records.deletable(at) == ()
    else:
        assert (type(committed), committed.reason) == (Conflict, CONDEMNED)
        assert records.deletable(at) == (pack,)


def test_two_points_of_an_instance_race_for_a_sequence(records):
    points = [PointId(uuid4()) for _ in range(3)]
    instance = InstanceId(uuid4())
    results = at_once(
        *(
            lambda point=point: records.commit(
                record(point, instance=instance), packs=[], attempt=1
            )
            for point in points
        )
    )
    assert [r.reason for r in results if r is not None] == [RACED, RACED]
    assert records.last(TENANT, instance).point == points[results.index(None)]


def test_two_attempts_at_once_leave_one_writer(records):
    point = PointId(uuid4())
    sessions = at_once(
        *(
            lambda: records.begin(
                point=point, disk=0, domain=DOMAINS[0], attempt=1, layout=LAYOUT
            )
        for _ in range(3))
    )  # fmt: skip
    refusals = []
    for session in sessions:
        try:
            records.finish(session, copied())
        except Conflict as e:
            refusals.append(e.reason)
    assert refusals == [SUPERSEDED, SUPERSEDED]


def test_many_leaves_and_packs_are_no_burden(records):
    # Three thousand leaves and packs, as of a disk of some hundred gigabytes: about a second.
    point, many = PointId(uuid4()), 3000
    session, pack = written(records, point, verify=False)
    other = uuid4().bytes
    records.open_pack(PackNew(pack=other, domain=DOMAINS[0], session=session))
    records.seal(session, other, [leaf(n) for n in range(many)])
    again = records.begin(point=point, disk=0, domain=DOMAINS[0], attempt=2, layout=LAYOUT)
    assert dict(again.covered) == {n: leaf(n) for n in range(many)}
    records.uncover(again, range(1, many))
    assert (
        len(records.begin(point=point, disk=0, domain=DOMAINS[0], attempt=3, layout=LAYOUT).covered)
        == 1
    )
    assert len(records.states([uuid4().bytes for _ in range(many)] + [pack])) == 1


class TestStoredVault(RecordsContract):
    """The contract that the vault states for its records; `records` is the fixture above."""
