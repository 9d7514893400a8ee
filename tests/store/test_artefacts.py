"""Intentions and what becomes of them."""

from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest

from controlplane.domain.artefact import ArtefactState
from controlplane.domain.errors import SUPERSEDED, Conflict, NotFound
from controlplane.domain.ids import (
    ArtefactId,
    InstanceId,
    OperationId,
    SiteName,
)
from tests.store.nouns import T0, artefact, at_once, fresh


def test_an_intention_stands_when_it_is_said_again(store):
    wish = artefact(anchor="101", created_at=T0, note="disk 0", size=5)
    with store.begin() as tx:
        assert tx.artefacts.intend(wish) == wish
        before = tx.events.last()
        assert tx.artefacts.intend(replace(wish, anchor="102")) == wish
        assert tx.events.last() == before
        raised = tx.artefacts.intend(replace(wish, anchor="102", epoch=3))
        assert raised == replace(wish, epoch=3)
        with pytest.raises(Conflict) as refused:
            tx.artefacts.intend(wish)
        assert refused.value.reason == SUPERSEDED
        with pytest.raises(Conflict, match="another thing"):
            tx.artefacts.intend(replace(wish, epoch=3, site=SiteName("elsewhere")))


def test_an_anchor_is_taken_where_none_was_stored(store):
    wish = artefact(created_at=T0)
    with store.begin() as tx:
        tx.artefacts.intend(wish)
        assert tx.artefacts.intend(replace(wish, anchor="101")).anchor == "101"


def test_two_intentions_at_once_have_one_anchor(store):
    wish = artefact(created_at=T0)

    def intend(anchor):
        with store.begin() as tx:
            return tx.artefacts.intend(replace(wish, anchor=anchor))

    first, second = at_once(lambda: intend("101"), lambda: intend("102"))
    assert first == second


def test_an_artefact_goes_through_its_states(store):
    wish = artefact()
    with store.begin() as tx:
        made = tx.artefacts.intend(wish)
        assert made.created_at is not None
        tx.artefacts.set_state(wish.id, ArtefactState.ALLOCATED, ref="vol-1", anchor="7", note="n")
        kept = tx.artefacts.set_state(wish.id, ArtefactState.RETAINED, expires_at=T0)
        assert (kept.ref, kept.anchor, kept.note, kept.expires_at) == ("vol-1", "7", "n", T0)
        assert tx.artefacts.set_state(wish.id, ArtefactState.RETAINED) == kept
        used = tx.artefacts.set_state(wish.id, ArtefactState.COPYING)
        assert used.expires_at is None
        tx.artefacts.set_state(wish.id, ArtefactState.RELEASED)
        with pytest.raises(Conflict):
            tx.artefacts.set_state(wish.id, ArtefactState.COPYING)
        with pytest.raises(NotFound):
            tx.artefacts.get(ArtefactId(uuid4()))
        assert tx.artefacts.find(ArtefactId(uuid4())) is None


def test_a_takeover_stamps_an_artefact_anew_and_never_with_less(store):
    wish, heir = artefact(epoch=2), OperationId(uuid4())
    with store.begin() as tx:
        tx.artefacts.intend(wish)
        stamped = tx.artefacts.restamp(wish.id, heir, 4)
        with pytest.raises(Conflict) as refused:
            tx.artefacts.restamp(wish.id, wish.operation, 3)
    assert (stamped.operation, stamped.epoch) == (heir, 4)
    assert refused.value.reason == SUPERSEDED


def test_artefacts_are_listed_by_what_they_belong_to(store):
    instance, site = InstanceId(uuid4()), SiteName(fresh("site"))
    ours = [
        artefact(instance, site=site, created_at=T0 + n * timedelta(seconds=1)) for n in range(3)
    ]
    with store.begin() as tx:
        for each in (*reversed(ours), artefact(site=site), artefact(instance)):
            tx.artefacts.intend(each)
        tx.artefacts.set_state(ours[1].id, ArtefactState.ALLOCATED)
        assert [a.id for a in tx.artefacts.list(instance, site)] == [a.id for a in ours]
        assert len(tx.artefacts.list(instance)) == len(tx.artefacts.list(site=site)) == 4
        assert [a.id for a in tx.artefacts.list(operation=ours[0].operation)] == [ours[0].id]
        assert [a.id for a in tx.artefacts.list(instance, states={ArtefactState.ALLOCATED})] == [
            ours[1].id
        ]
