"""Resources: wishes with versions, states with a history, names that become free."""

from datetime import UTC, timedelta, timezone
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.errors import Conflict, Invalid, NotFound
from controlplane.domain.ids import ResourceId, TenantName, WorkspaceName
from controlplane.domain.resource import CONDITIONS_KEPT, Kind, Resource, ResourceKey, State
from controlplane.store.resources import Deleted, cursor
from tests.store.nouns import SECOND, T0, at_once, fresh, key, resource_id


def put(store, where, **fields):
    wish = {"id": resource_id(), "spec": {}, "now": T0, **fields}
    with store.begin() as tx:
        return tx.resources.put(where, **wish)


def test_a_new_resource_is_pending_at_version_one(store):
    where = key()
    made, created = put(store, where, spec={"zone": "par-os"}, labels={"tier": "web"})
    assert created
    assert (made.version, made.state, made.created_at, made.deleted_at) == (
        1,
        State.PENDING,
        T0,
        None,
    )
    assert [(c.state, c.at) for c in made.conditions] == [(State.PENDING, T0)]
    with store.read() as tx:
        assert tx.resources.get(where) == made
        assert tx.resources.by_id(made.id) == made


def test_only_what_differs_makes_a_new_version(store):
    where = key()
    first, _ = put(store, where, spec={"sizes": (1, 2)}, status={"power": "off"})
    same, created = put(
        store, where, spec={"sizes": [1, 2]}, status={"power": "other"}, now=T0 + SECOND
    )
    assert not created
    assert same == first
    changed, _ = put(store, where, spec={"sizes": [3]}, now=T0 + SECOND)
    assert (changed.id, changed.version, changed.modified_at) == (first.id, 2, T0 + SECOND)
    assert changed.status == {"power": "off"}


def test_two_changes_in_one_moment_have_different_times(store):
    where = key()
    put(store, where, spec={"n": 0})
    times = [put(store, where, spec={"n": n}, now=T0 - SECOND)[0].modified_at for n in range(1, 4)]
    assert times == [T0 + n * timedelta(milliseconds=1) for n in range(1, 4)]


def test_an_expected_version_that_differs_is_a_failed_precondition(store):
    where = key()
    put(store, where)
    put(store, where, spec={"a": 1}, expected_version=1)
    with pytest.raises(Conflict, match="at version 2, not 1") as refused:
        put(store, where, spec={"a": 2}, expected_version=1)
    assert refused.value.reason == "precondition"
    with pytest.raises(Conflict):
        put(store, key(), expected_version=3)


def test_two_puts_with_the_same_expected_version_have_one_winner(store):
    where = key()
    put(store, where)
    results = at_once(
        *(lambda n=n: put(store, where, spec={"n": n}, expected_version=1) for n in range(4))
    )
    won = [r for r in results if isinstance(r, tuple)]
    lost = [r for r in results if isinstance(r, Conflict) and r.reason == "precondition"]
    assert (len(won), len(lost)) == (1, 3)
    with store.read() as tx:
        assert tx.resources.get(where) == won[0][0]


def test_a_name_raced_for_is_made_once(store):
    where = key()
    results = at_once(*(lambda n=n: put(store, where, spec={"n": 1}) for n in range(4)))
    assert sorted(created for _, created in results) == [False, False, False, True]
    assert len({made.id for made, _ in results}) == 1


def test_a_block_that_raises_leaves_nothing_behind(store):
    where = key()

    def half():
        with store.begin() as tx:
            tx.resources.put(where, id=resource_id(), spec={}, now=T0)
            raise Conflict("no further")

    with pytest.raises(Conflict, match="no further"):
        half()
    with store.read() as tx:
        assert tx.resources.find(where) is None


def test_states_follow_the_lifecycle_and_leave_a_history(store):
    made, _ = put(store, key())
    with store.begin() as tx:
        tx.resources.set_state(made.id, State.CREATING, now=T0 + SECOND)
        tx.resources.set_state(made.id, State.ACTIVE, now=T0)
        seen = tx.resources.set_state(
            made.id,
            State.ACTIVE,
            now=T0 + 3 * SECOND,
            type="power",
            reason="turnedOn",
            message="ok",
        )
    assert [c.state for c in seen.conditions] == [
        State.ACTIVE,
        State.ACTIVE,
        State.CREATING,
        State.PENDING,
    ]
    assert [c.at for c in seen.conditions] == [T0 + 3 * SECOND, T0 + SECOND, T0 + SECOND, T0]
    assert (seen.conditions[0].reason, seen.version, seen.status_version) == ("turnedOn", 1, 4)
    with store.begin() as tx, pytest.raises(Conflict, match="active cannot become pending"):
        tx.resources.set_state(made.id, State.PENDING, now=T0)


def test_a_condition_said_again_is_refreshed(store):
    made, _ = put(store, key())
    with store.begin() as tx:
        for n in range(3):
            seen = tx.resources.set_state(made.id, State.CREATING, now=T0 + n * SECOND)
    assert [(c.state, c.at) for c in seen.conditions] == [
        (State.CREATING, T0 + 2 * SECOND), (State.PENDING, T0)
    ]  # fmt: skip


def test_the_history_keeps_its_newest_entries(store):
    made, _ = put(store, key())
    with store.begin() as tx:
        for n in range(CONDITIONS_KEPT + 5):
            seen = tx.resources.set_state(made.id, State.CREATING, now=T0, reason=f"r{n}")
    assert len(seen.conditions) == CONDITIONS_KEPT
    assert seen.conditions[0].reason == f"r{CONDITIONS_KEPT + 4}"


def test_status_is_replaced_or_merged_without_a_new_version(store):
    made, _ = put(store, key(), status={"power": "off", "zone": {"a": 1}})
    with store.begin() as tx:
        tx.resources.patch_status(made.id, {"power": "on", "zone": {"b": 2}}, now=T0)
        merged = tx.resources.by_id(made.id)
        tx.resources.patch_status(made.id, {"power": "on"}, now=T0)
        assert tx.resources.by_id(made.id) == merged
        tx.resources.set_status(made.id, {"only": True}, now=T0)
    assert (merged.status, merged.status_version) == ({"power": "on", "zone": {"b": 2}}, 2)
    with store.read() as tx:
        seen = tx.resources.by_id(made.id)
    assert (seen.status, seen.version, seen.status_version) == ({"only": True}, 1, 3)


def test_the_server_changes_a_spec_under_a_new_version(store):
    made, _ = put(store, key(), spec={"zone": "par-os"})
    with store.begin() as tx:
        tx.resources.set_spec(made.id, {"zone": "par-pve"}, now=T0 + SECOND)
        tx.resources.set_spec(made.id, {"zone": "par-pve"}, now=T0 + 2 * SECOND)
        seen = tx.resources.by_id(made.id)
    assert (seen.spec, seen.version, seen.modified_at) == ({"zone": "par-pve"}, 2, T0 + SECOND)


def test_a_resource_being_deleted_takes_no_wish_and_its_name_is_free_once_it_is_gone(store):
    where = key()
    made, _ = put(store, where, labels={"a": "1"})
    with store.begin() as tx:
        going = tx.resources.mark_deleting(made.id, T0 + SECOND)
        assert tx.resources.mark_deleting(made.id, T0 + 9 * SECOND) == going
    assert (going.state, going.deleted_at, going.version) == (State.DELETING, T0 + SECOND, 2)
    with pytest.raises(Conflict, match="being deleted"):
        put(store, where, spec={"a": 1})
    with store.begin() as tx:
        tx.resources.remove(made.id, T0 + 2 * SECOND)
        tx.resources.remove(made.id, T0 + 3 * SECOND)
        assert tx.resources.find(where) is None
        assert tx.resources.find_id(made.id) is None
        with pytest.raises(NotFound):
            tx.resources.get(where)
        with pytest.raises(NotFound):
            tx.resources.by_id(made.id)
        with pytest.raises(NotFound):
            tx.resources.set_status(made.id, {}, now=T0)
        gone = tx.resources.by_id(made.id, deleted=True)
        assert gone.deleted_at == T0 + SECOND
    again, created = put(store, where)
    assert created
    assert again.id != made.id
    assert again.labels == {}


def test_a_deletion_that_failed_and_was_given_up_leaves_no_mark(store):
    made, _ = put(store, key())
    with store.begin() as tx:
        tx.resources.mark_deleting(made.id, T0)
        stuck = tx.resources.set_state(made.id, State.ERROR, now=T0)
        back = tx.resources.set_state(made.id, State.ACTIVE, now=T0)
    assert stuck.deleted_at == T0
    assert back.deleted_at is None


def test_what_is_not_there_is_not_found(store):
    with store.begin() as tx:
        for call in (
            lambda: tx.resources.get(key("nobody")),
            lambda: tx.resources.by_id(resource_id()),
            lambda: tx.resources.remove(resource_id(), T0),
            lambda: tx.resources.mark_deleting(resource_id(), T0),
        ):
            with pytest.raises(NotFound):
                call()


def test_pages_follow_each_other_in_the_order_of_names(store):
    tenant = fresh("t")
    names = [f"{stem}{n}" for stem in ("b", "a-", "a", "a.") for n in range(3)]
    for name in names:
        put(store, key(name, tenant=tenant))
    seen, after = [], ""
    with store.read() as tx:
        while page := tx.resources.list(
            Kind.INSTANCE,
            tenant=TenantName(tenant),
            workspace=WorkspaceName("shop"),
            limit=5,
            after=after,
        ):
            seen += [resource.key.name for resource in page]
            after = page[-1].key.name
    assert seen == sorted(names)


def test_pages_across_workspaces_go_on_behind_a_cursor(store):
    tenant = TenantName(fresh("t"))
    for workspace in ("w1", "w2", "w3"):
        for name in ("a", "b"):
            put(store, key(name, tenant=tenant, workspace=workspace))
    seen, after = [], ""
    with store.read() as tx:
        while page := tx.resources.list(Kind.INSTANCE, tenant=tenant, limit=2, after=after):
            seen += [str(resource.key) for resource in page]
            after = cursor(page[-1])
        assert tx.resources.count(Kind.INSTANCE, tenant) == 6
        assert tx.resources.count(Kind.INSTANCE, tenant, WorkspaceName("w1")) == 2
        with pytest.raises(Invalid):
            tx.resources.list(Kind.INSTANCE, after="a/b")
    assert sorted(seen) == sorted(f"{w}/{n}" for w in ("w1", "w2", "w3") for n in ("a", "b"))
    assert [name[-1] for name in seen] == list("aaabbb")


def test_listings_show_the_living_the_removed_or_both(store):
    tenant = TenantName(fresh("t"))
    kept, _ = put(store, key("kept", tenant=tenant))
    gone = [put(store, key("gone", tenant=tenant))[0]]
    with store.begin() as tx:
        tx.resources.remove(gone[0].id, T0)
    gone.append(put(store, key("gone", tenant=tenant))[0])
    with store.begin() as tx:
        tx.resources.remove(gone[1].id, T0)

    def ids(deleted):
        with store.read() as tx:
            first = tx.resources.list(Kind.INSTANCE, tenant=tenant, deleted=deleted, limit=1)
            rest = tx.resources.list(
                Kind.INSTANCE, tenant=tenant, deleted=deleted, after=cursor(first[0])
            )
            return {resource.id for resource in first + rest}

    assert ids(Deleted.LIVE) == {kept.id}
    assert ids(Deleted.ONLY) == {g.id for g in gone}
    assert ids(Deleted.ALSO) == {kept.id} | {g.id for g in gone}


def test_tenants_do_not_see_each_other(store):
    mine, yours = fresh("t"), fresh("t")
    put(store, key("web", tenant=mine))
    put(store, key("web", tenant=yours))
    with store.read() as tx:
        page = tx.resources.list(Kind.INSTANCE, tenant=TenantName(mine))
    assert [resource.key.tenant for resource in page] == [mine]


def test_a_resource_outside_tenants_has_a_name_of_its_own(store):
    where = ResourceKey(kind=Kind.SITE, name=fresh("site"))
    made, _ = put(store, where)
    assert made.key == where
    again, created = put(store, where)
    assert (again, created) == (made, False)


def test_times_come_back_in_utc_whatever_zone_they_came_in(store):
    where = key()
    put(store, where, now=T0.astimezone(timezone(timedelta(hours=9))))
    with store.read() as tx:
        seen = tx.resources.get(where)
    for at in (seen.created_at, seen.modified_at, seen.conditions[0].at):
        assert (at, at.utcoffset()) == (T0, timedelta(0))


def test_what_cannot_be_kept_is_refused(store):
    for wrong in (
        {"spec": {"n": float("nan")}},
        {"spec": {"n": object()}},
        {"labels": {"a": "b\0"}},
        {"labels": {"a": "\ud800"}},
        {"now": T0.replace(tzinfo=None)},
    ):
        with pytest.raises(Invalid):
            put(store, key(), **wrong)


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
MAPS = st.dictionaries(TEXTS, TEXTS, max_size=4)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
MOMENTS = st.datetimes(timezones=st.timezones())


@settings(max_examples=50)
@given(
    labels=MAPS, annotations=MAPS, extensions=MAPS, spec=st.dictionaries(st.text(max_size=6), JSON, max_size=4),
    status=st.dictionaries(st.text(max_size=6), JSON, max_size=4), now=MOMENTS,
)  # fmt: skip
def test_every_resource_comes_back_as_it_went_in(
    store, labels, annotations, extensions, spec, status, now
):
    # Fifty examples, each committed durably, take about a second.
    where = key(fresh("r"))
    made, _ = put(
        store, where, id=ResourceId(uuid4()), labels=labels, annotations=annotations,
        extensions=extensions, spec=spec, status=status, now=now,
    )  # fmt: skip
    with store.read() as tx:
        read = tx.resources.get(where)
    assert read == made
    assert isinstance(read, Resource)
    assert (read.labels, read.annotations, read.extensions) == (labels, annotations, extensions)
    assert (read.spec, read.status, read.created_at) == (spec, status, now.astimezone(UTC))
