"""Homes, leases and the switch, also when two come at once."""

from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.errors import SUPERSEDED, Busy, Conflict, NotFound
from controlplane.domain.ids import (
    ArtefactId,
    InstanceId,
    SiteName,
)
from controlplane.domain.placement import Placement
from tests.store.nouns import T0, added, at_once, fresh, home, operation


def take(store, instance, op):
    with store.begin() as tx:
        return tx.leases.take(instance, op.id, T0)


def test_a_lease_raises_the_epoch_and_is_the_same_when_taken_again(store):
    instance, first, second = home(store), added(store), added(store)
    lease = take(store, instance, first)
    assert lease.epoch == 1
    assert take(store, instance, first) == lease
    with store.begin() as tx:
        tx.leases.release(instance, second.id)
        assert tx.leases.find(instance) == lease
        tx.leases.release(instance, first.id)
        assert tx.leases.find(instance) is None
    assert take(store, instance, second).epoch == 2
    with store.read() as tx:
        assert tx.placements.get(instance).epoch == 2


def test_a_lease_needs_a_home(store):
    with pytest.raises(NotFound):
        take(store, InstanceId(uuid4()), added(store))


def test_two_operations_at_once_get_one_lease_and_the_loser_hears_of_the_winner(store):
    instance, ops = home(store), [added(store) for _ in range(4)]
    results = at_once(*(lambda op=op: take(store, instance, op) for op in ops))
    (won,) = [r for r in results if not isinstance(r, Exception)]
    winner = next(op for op in ops if op.id == won.operation)
    lost = [r for r in results if isinstance(r, Exception)]
    assert len(lost) == 3
    for error in lost:
        assert isinstance(error, Busy)
        assert winner.name in str(error)
    with store.read() as tx:
        assert tx.leases.find(instance) == won
        assert tx.placements.get(instance).epoch == won.epoch == 1


def test_a_holder_that_is_not_on_record_is_named_by_its_id(store):
    instance, ghost = home(store), operation()
    take(store, instance, ghost)
    with pytest.raises(Busy, match=str(ghost.id)):
        take(store, instance, added(store))


def test_a_group_of_leases_is_taken_whole_or_not_at_all(store):
    group = [home(store) for _ in range(3)]
    holder, wisher = added(store), added(store)
    take(store, group[2], holder)
    with store.begin() as tx, pytest.raises(Busy, match=holder.name):
        tx.leases.take_all(group, wisher.id, T0)  # the transaction goes on and commits
    with store.begin() as tx:
        assert [tx.leases.find(instance) for instance in group[:2]] == [None, None]
        assert tx.placements.get(group[0]).epoch == 0
        tx.leases.release(group[2], holder.id)
        leases = tx.leases.take_all(group, wisher.id, T0)
    assert [(lease.instance, lease.epoch) for lease in leases] == list(
        zip(group, (1, 1, 2), strict=True)
    )


def test_all_that_an_operation_holds_is_released_and_nothing_else(store):
    group, other = sorted([home(store), home(store)]), home(store)
    holder, stranger = added(store), added(store)
    take(store, other, stranger)
    with store.begin() as tx:
        tx.leases.take_all(group, holder.id, T0)
        assert tx.leases.held_by(holder.id) == tuple(group)
        tx.leases.release_all(holder.id)
        tx.leases.release_all(holder.id)
        assert tx.leases.held_by(holder.id) == ()
        assert tx.leases.held_by(stranger.id) == (other,)


def test_crossing_groups_have_one_winner(store):
    a, b = home(store), home(store)

    def take_both(first, second, op):
        with store.begin() as tx:
            return tx.leases.take_all((first, second), op.id, T0)

    left, right = added(store), added(store)
    results = at_once(lambda: take_both(a, b, left), lambda: take_both(b, a, right))
    assert sorted(type(r) for r in results if isinstance(r, Exception)) == [Busy]
    with store.read() as tx:
        assert tx.leases.find(a).operation == tx.leases.find(b).operation


@pytest.fixture
def held(store):
    instance, op = home(store), added(store)
    return instance, op, take(store, instance, op)


def test_a_lease_is_checked_by_holder_and_epoch(store, held):
    instance, op, lease = held
    other = added(store)
    with store.begin() as tx:
        assert tx.leases.check(instance, op.id, lease.epoch) == lease
        for who, epoch in ((op.id, 0), (op.id, 2), (other.id, 0), (other.id, lease.epoch)):
            with pytest.raises(Conflict) as refused:
                tx.leases.check(instance, who, epoch)
            assert refused.value.reason == SUPERSEDED
        tx.leases.release(instance, op.id)
        with pytest.raises(Conflict) as refused:
            tx.leases.check(instance, op.id, lease.epoch)
        assert refused.value.reason == SUPERSEDED


def switch(store, instance, op, epoch, site="par-pve", copy=None):
    with store.begin() as tx:
        return tx.placements.switch(
            instance, operation=op.id, epoch=epoch, site=SiteName(site), copy=copy, now=T0
        )


def test_the_switch_changes_the_home_once_and_answers_the_same_again(store, held):
    instance, op, lease = held
    copy = ArtefactId(uuid4())
    done = switch(store, instance, op, lease.epoch, copy=copy)
    assert done == Placement(
        instance=instance, site=SiteName("par-pve"), copy=copy, epoch=lease.epoch, switched_at=T0
    )
    with store.begin() as tx:
        before = tx.events.last()
        tx.leases.release(instance, op.id)
    assert switch(store, instance, op, lease.epoch, copy=copy) == done
    with store.read() as tx:
        assert tx.events.last() == before
    with pytest.raises(Conflict, match="par-pve") as refused:
        switch(store, instance, op, lease.epoch, site="elsewhere", copy=copy)
    assert refused.value.reason == ""


def test_a_switch_of_a_stale_epoch_changes_nothing(store, held):
    instance, op, lease = held
    copy = ArtefactId(uuid4())
    with store.begin() as tx:
        tx.leases.release(instance, op.id)
    after = take(store, instance, op)  # the same operation, resumed under a new epoch
    for epoch in (lease.epoch, after.epoch + 1):
        with pytest.raises(Conflict) as refused:
            switch(store, instance, op, epoch, copy=copy)
        assert refused.value.reason == SUPERSEDED
    with store.read() as tx:
        assert tx.placements.get(instance).site == "par-os"
    assert switch(store, instance, op, after.epoch, copy=copy).site == "par-pve"


def test_a_switch_races_a_takeover_and_one_of_them_decides(store, held):
    instance, op, lease = held
    heir, copy = added(store), ArtefactId(uuid4())

    def takeover():
        with store.begin() as tx:
            tx.leases.release(instance, op.id)
            return tx.leases.take(instance, heir.id, T0)

    switched, taken = at_once(lambda: switch(store, instance, op, lease.epoch, copy=copy), takeover)
    assert taken.epoch == lease.epoch + 1
    with store.read() as tx:
        site = tx.placements.get(instance).site
    if isinstance(switched, Placement):
        assert site == "par-pve"
    else:
        assert (switched.reason, site) == (SUPERSEDED, "par-os")


def test_an_earlier_switch_is_not_repeated_over_a_later_one(store, held):
    instance, op, lease = held
    there, back = ArtefactId(uuid4()), ArtefactId(uuid4())
    switch(store, instance, op, lease.epoch, copy=there)
    with store.begin() as tx:
        tx.leases.release(instance, op.id)
    later = added(store)
    again = take(store, instance, later)
    switch(store, instance, later, again.epoch, site="par-os", copy=back)
    with pytest.raises(Conflict) as refused:
        switch(store, instance, op, lease.epoch, copy=there)
    assert refused.value.reason == SUPERSEDED
    with store.read() as tx:
        assert tx.placements.get(instance).copy == back


def test_the_copy_of_a_provisioned_instance_is_noted_under_its_lease(store, held):
    instance, op, lease = held
    copy = ArtefactId(uuid4())
    with store.begin() as tx:
        noted = tx.placements.set_copy(instance, op.id, lease.epoch, copy, T0)
        assert tx.placements.set_copy(instance, op.id, lease.epoch, copy, T0) == noted
        with pytest.raises(Conflict):
            tx.placements.set_copy(instance, op.id, lease.epoch + 1, copy, T0)
    assert noted.copy == copy


def test_homes_are_listed_by_site_and_go_away(store):
    site = fresh("site")
    homes = {home(store, site) for _ in range(3)}
    gone = homes.pop()
    with store.begin() as tx:
        with pytest.raises(Conflict, match="home already"):
            tx.placements.create(tx.placements.get(gone))
        tx.placements.delete(gone)
        tx.placements.delete(gone)
        assert tx.placements.find(gone) is None
        assert {p.instance for p in tx.placements.list_by_site(SiteName(site))} == homes


def test_a_lease_outlives_the_home_that_is_deleted_under_it(store, held):
    instance, op, lease = held
    with store.begin() as tx:
        tx.placements.delete(instance)
        assert tx.leases.check(instance, op.id, lease.epoch) == lease
        tx.leases.release(instance, op.id)


@settings(max_examples=40)
@given(
    acts=st.lists(
        st.tuples(
            st.sampled_from(["take", "release", "switch"]), st.integers(0, 2), st.integers(0, 4)
        ),
        max_size=12,
    )
)
def test_the_home_changes_only_under_the_lease_of_its_present_epoch(store, acts):
    # Forty stories of a few durable commits each: about a second.
    instance, ops = home(store), [operation() for _ in range(3)]
    epoch, holder, site, done = 0, None, "par-os", None
    for act, who, presented in acts:
        op = ops[who]
        copy = ArtefactId(op.id)
        if act == "take":
            if holder in {None, who}:
                epoch += holder is None
                holder = who
                assert take(store, instance, op).epoch == epoch
            else:
                with pytest.raises(Busy):
                    take(store, instance, op)
        elif act == "release":
            with store.begin() as tx:
                tx.leases.release(instance, op.id)
            holder = None if holder == who else holder
        elif done == (who, presented) or (holder == who and presented == epoch):
            site, done = f"site-{who}", (who, presented)
            assert switch(store, instance, op, presented, site=site, copy=copy).site == site
        else:
            with pytest.raises(Conflict):
                switch(store, instance, op, presented, site=f"site-{who}", copy=copy)
    with store.read() as tx:
        seen = tx.placements.get(instance)
    assert (seen.site, seen.epoch) == (site, epoch)
