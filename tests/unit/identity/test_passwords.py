"""Passwords are kept as argon2id and tell nobody who exists."""

import pytest
from argon2 import PasswordHasher

from controlplane.domain.errors import Integrity, Invalid
from controlplane.domain.identity import User
from controlplane.domain.ids import TenantName, UserName
from controlplane.identity.passwords import LONGEST, Passwords

GOOD = "a long enough password"


@pytest.fixture(scope="module")
def passwords():
    return Passwords(PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))


def test_the_right_password_matches_and_others_do_not(passwords):
    stored = passwords.hash(GOOD)
    assert passwords.matches(stored, GOOD)
    for other in ("", GOOD + " ", GOOD.upper(), "x" * (LONGEST + 1)):
        assert not passwords.matches(stored, other)


def test_what_is_kept_is_argon2id_and_differs_each_time(passwords):
    first, second = passwords.hash(GOOD), passwords.hash(GOOD)
    assert first != second
    assert first.startswith("$argon2id$")
    assert GOOD not in first


def test_nobody_has_no_password(passwords):
    assert not passwords.matches("", GOOD)
    assert not passwords.matches("", "the password of nobody")


@pytest.mark.parametrize("bad", ["", "short", "x" * (LONGEST + 1)])
def test_a_password_too_short_or_too_long_is_refused_without_repeating_it(passwords, bad):
    with pytest.raises(Invalid) as caught:
        passwords.hash(bad)
    assert not bad or bad not in str(caught.value)


@pytest.mark.parametrize("broken", ["rubbish", "$argon2id$v=19$m=64,t=1,p=1$AAAA"])
def test_a_broken_hash_is_told_apart_from_a_wrong_password(passwords, broken):
    with pytest.raises(Integrity, match="set the user's password anew"):
        passwords.matches(broken, GOOD)


def test_a_hash_of_yesterdays_cost_is_outdated(passwords):
    stored = passwords.hash(GOOD)
    assert not passwords.outdated(stored)
    assert Passwords(PasswordHasher(time_cost=2, memory_cost=64, parallelism=1)).outdated(stored)


def test_the_default_cost_is_the_one_of_the_rfc():
    # longer than the others on purpose: it runs the real parameters once
    stored = Passwords().hash(GOOD)
    assert "$m=65536,t=3,p=4$" in stored


def test_a_user_is_printed_without_the_hash(passwords):
    stored = passwords.hash(GOOD)
    user = User(name=UserName("maria"), tenant=TenantName("acme"), password=stored)
    assert stored not in repr(user)
