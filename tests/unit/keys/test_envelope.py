"""Nothing opens but the untouched envelope under its own key, name and binding."""

from dataclasses import replace
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.errors import Integrity
from controlplane.keys import envelope
from controlplane.keys.port import KeyId, KeyName, OpenKey, Purpose

KEY = OpenKey(
    name=KeyName(id=KeyId(uuid4()), purpose=Purpose.PAYLOAD, owner="acme", version=1),
    material=envelope.new_material(),
)


@given(plain=st.binary(max_size=2000), bound=st.binary(max_size=40))
def test_what_was_sealed_opens_again(plain, bound):
    sealed = envelope.seal(KEY, plain, bound=bound)
    assert envelope.open_sealed(KEY, sealed, bound=bound) == plain
    assert len(sealed) == len(plain) + envelope.OVERHEAD
    assert envelope.key_id(sealed) == KEY.name.id


@given(plain=st.binary(max_size=100), data=st.data())
def test_any_flipped_bit_is_refused(plain, data):
    sealed = bytearray(envelope.seal(KEY, plain))
    bit = data.draw(st.integers(0, len(sealed) * 8 - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Integrity):
        envelope.open_sealed(KEY, bytes(sealed))


@given(cut=st.integers(0, envelope.OVERHEAD + 9))
def test_any_truncation_is_refused(cut):
    sealed = envelope.seal(KEY, b"ten bytes!")
    with pytest.raises(Integrity):
        envelope.open_sealed(KEY, sealed[:cut])


@pytest.mark.parametrize(
    "name",
    [
        replace(KEY.name, purpose=Purpose.CREDENTIALS),
        replace(KEY.name, owner="other"),
        replace(KEY.name, version=2),
        replace(KEY.name, id=KeyId(uuid4())),
    ],
)
def test_the_same_bytes_under_another_name_do_not_open(name):
    sealed = envelope.seal(KEY, b"secret")
    with pytest.raises(Integrity):
        envelope.open_sealed(OpenKey(name=name, material=KEY.material), sealed)


def test_another_binding_does_not_open():
    sealed = envelope.seal(KEY, b"secret", bound=b"site-a")
    with pytest.raises(Integrity):
        envelope.open_sealed(KEY, sealed, bound=b"site-b")


def test_two_envelopes_of_one_text_differ():
    assert envelope.seal(KEY, b"same") != envelope.seal(KEY, b"same")
