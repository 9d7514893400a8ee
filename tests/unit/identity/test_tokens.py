"""A token opens the door until it ends, is revoked or its user is disabled."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.errors import Denied
from controlplane.domain.identity import Actor, User
from controlplane.domain.ids import TenantName, UserName
from controlplane.identity import tokens

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
MARIA = User(name=UserName("maria"), tenant=TenantName("acme"))
HOUR = timedelta(hours=1)


def refused(record, user, now, reason):
    with pytest.raises(Denied) as caught:
        tokens.admit(record, user, now=now)
    assert caught.value.reason == reason


def test_a_token_is_found_by_its_digest_and_lets_its_user_in():
    issued = tokens.issue(MARIA, now=NOW, lifetime=HOUR, note="laptop")
    assert issued.text.startswith("fedctl_")
    assert tokens.digest(issued.text) == issued.record.digest
    assert issued.record.note == "laptop"
    actor = tokens.admit(issued.record, MARIA, now=NOW)
    assert actor == Actor(subject="maria", tenant=TenantName("acme"))


def test_the_token_is_printed_nowhere_and_kept_nowhere():
    issued = tokens.issue(MARIA, now=NOW)
    for text in (repr(issued), repr(issued.record)):
        assert issued.text not in text
        assert issued.record.digest not in text
    assert issued.text[7:] not in issued.record.digest


def test_no_two_tokens_are_equal():
    assert len({tokens.issue(MARIA, now=NOW).text for _ in range(50)}) == 50


def test_a_token_ends_at_its_time_and_not_before():
    record = tokens.issue(MARIA, now=NOW, lifetime=HOUR).record
    tokens.admit(record, MARIA, now=NOW + HOUR - timedelta(microseconds=1))
    refused(record, MARIA, NOW + HOUR, tokens.EXPIRED)


def test_a_token_without_an_end_lives_until_it_is_revoked():
    record = tokens.issue(MARIA, now=NOW).record
    tokens.admit(record, MARIA, now=NOW + timedelta(days=10_000))
    revoked = replace(record, revoked_at=NOW + HOUR)
    tokens.admit(revoked, MARIA, now=NOW)
    refused(revoked, MARIA, NOW + HOUR, tokens.REVOKED)


def test_nobody_else_gets_in_and_all_look_alike():
    record = tokens.issue(MARIA, now=NOW).record
    refused(None, None, NOW, tokens.UNKNOWN)
    refused(record, None, NOW, tokens.UNKNOWN)
    refused(None, MARIA, NOW, tokens.UNKNOWN)
    refused(record, replace(MARIA, disabled=True), NOW, tokens.UNKNOWN)
    refused(record, replace(MARIA, name=UserName("otto")), NOW, tokens.UNKNOWN)


@given(text=st.text(max_size=60))
def test_what_is_no_token_is_refused_without_repeating_it(text):
    with pytest.raises(Denied) as caught:
        tokens.digest(text)
    assert caught.value.reason == tokens.UNKNOWN


def test_a_token_with_something_behind_it_is_no_token():
    issued = tokens.issue(MARIA, now=NOW)
    for text in (issued.text + "\n", issued.text + "A", issued.text[:-1], issued.text.upper()):
        with pytest.raises(Denied) as caught:
            tokens.digest(text)
        assert text.strip() not in str(caught.value)
