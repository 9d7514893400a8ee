"""One key per purpose and owner, wrapped downwards from the root, remembered for a while."""

import json
import pickle
import threading
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest

from controlplane.domain.errors import Conflict, Integrity, Invalid, NotFound, Unavailable
from controlplane.keys import envelope
from controlplane.keys.credentials import open_credentials, seal_credentials
from controlplane.keys.keyring import DEFAULT_TTL, Keyring
from controlplane.keys.memory import MemoryKeys
from controlplane.keys.port import (
    SEALED,
    SYSTEM_OWNER,
    Purpose,
    SigningPurpose,
    domain_owner,
)
from controlplane.keys.root import LocalAgent, RootKey

DATA_PURPOSES = [p for p in Purpose if p is not Purpose.TENANT]


@pytest.mark.parametrize("purpose", DATA_PURPOSES)
def test_a_key_is_made_once_and_found_again_by_a_second_keyring(world, purpose):
    sealed = world.keyring().seal(purpose, "acme", b"text")
    assert world.keyring().open(purpose, "acme", sealed) == b"text"
    assert len(world.rows.list(purpose, "acme")) == 1
    assert len(world.rows.list(Purpose.TENANT, "acme")) == 1


def test_a_vault_domain_is_wrapped_by_its_tenants_key(world):
    owner = domain_owner("acme", "shop")
    world.keyring().current(Purpose.VAULT_DATA, owner)
    [tenant] = world.rows.list(Purpose.TENANT, "acme")
    [row] = world.rows.list(Purpose.VAULT_DATA, owner)
    assert row.wrapped_by == str(tenant.name.id)
    assert tenant.wrapped_by == str(world.root.id)


def test_the_system_key_belongs_to_no_tenant(world):
    world.keyring().current(Purpose.PAYLOAD, SYSTEM_OWNER)
    assert len(world.rows.list(Purpose.TENANT, SYSTEM_OWNER)) == 1


def test_after_a_rotation_new_seals_with_the_new_key_and_old_still_opens(world):
    keyring = world.keyring()
    old = keyring.seal(Purpose.PAYLOAD, "acme", b"old")
    rotated = keyring.rotate(Purpose.PAYLOAD, "acme")
    new = keyring.seal(Purpose.PAYLOAD, "acme", b"new")
    assert rotated.name.version == 2
    assert envelope.key_id(new) == rotated.name.id != envelope.key_id(old)
    fresh = world.keyring()
    assert fresh.open(Purpose.PAYLOAD, "acme", old) == b"old"
    assert fresh.open(Purpose.PAYLOAD, "acme", new) == b"new"


def test_a_rotated_tenant_key_wraps_what_is_made_later(world):
    keyring = world.keyring()
    before = keyring.seal(Purpose.PAYLOAD, "acme", b"before")
    newer = keyring.rotate(Purpose.TENANT, "acme")
    keyring.rotate(Purpose.PAYLOAD, "acme")
    first, second = world.rows.list(Purpose.PAYLOAD, "acme")
    assert second.wrapped_by == str(newer.name.id) != first.wrapped_by
    assert world.keyring().open(Purpose.PAYLOAD, "acme", before) == b"before"


def test_rotating_the_data_key_leaves_the_id_key_and_the_id_key_is_never_rotated(world):
    keyring = world.keyring()
    before = keyring.current(Purpose.VAULT_ID, "acme/shop").material
    keyring.rotate(Purpose.VAULT_DATA, "acme/shop")
    keyring.forget()
    assert keyring.current(Purpose.VAULT_ID, "acme/shop").material == before
    with pytest.raises(Conflict, match="id key"):
        keyring.rotate(Purpose.VAULT_ID, "acme/shop")


def test_another_process_follows_a_rotation_when_its_memory_runs_out(world):
    one, two = world.keyring(), world.keyring()
    one.current(Purpose.PAYLOAD, "acme")
    rotated = two.rotate(Purpose.PAYLOAD, "acme")
    assert one.current(Purpose.PAYLOAD, "acme").name.version == 1
    world.clock.seconds += DEFAULT_TTL.total_seconds() + 1
    assert one.current(Purpose.PAYLOAD, "acme").name == rotated.name


def test_no_opened_key_outlives_the_ttl_of_its_tenants_key(world):
    keyring = world.keyring()
    early = keyring.seal(Purpose.PAYLOAD, "acme", b"text")
    world.clock.seconds += DEFAULT_TTL.total_seconds() - 1
    late = keyring.seal(Purpose.CREDENTIALS, "acme", b"text")
    world.agent.seal()
    assert keyring.open(Purpose.PAYLOAD, "acme", early) == b"text"
    world.clock.seconds += 2
    for purpose, sealed in ((Purpose.PAYLOAD, early), (Purpose.CREDENTIALS, late)):
        with pytest.raises(Unavailable) as caught:
            keyring.open(purpose, "acme", sealed)
        assert caught.value.reason == SEALED
    world.agent.unseal(world.root)
    assert keyring.open(Purpose.PAYLOAD, "acme", early) == b"text"


def test_forgetting_needs_the_agent_at_the_next_use(world):
    keyring = world.keyring()
    keyring.current(Purpose.PAYLOAD, "acme")
    world.agent.seal()
    keyring.forget()
    with pytest.raises(Unavailable, match="sealed"):
        keyring.current(Purpose.PAYLOAD, "acme")


def test_one_tenants_bytes_do_not_open_for_another_tenant_or_purpose(world):
    keyring = world.keyring()
    sealed = keyring.seal(Purpose.PAYLOAD, "acme", b"text")
    with pytest.raises(Integrity, match="moved"):
        keyring.open(Purpose.PAYLOAD, "globex", sealed)
    with pytest.raises(Integrity, match="moved"):
        keyring.open(Purpose.CREDENTIALS, "acme", sealed)


def test_a_row_moved_to_another_owner_does_not_open(world):
    keyring = world.keyring()
    keyring.current(Purpose.PAYLOAD, "acme")
    keyring.current(Purpose.PAYLOAD, "globex")
    [row] = world.rows.list(Purpose.PAYLOAD, "acme")
    forged = MemoryKeys()
    for standing in (*world.rows.list(Purpose.TENANT, "acme"), row):
        forged.put_if_absent(replace(standing, name=replace(standing.name, owner="globex")))
    other = Keyring(agent=world.agent, rows=forged)
    with pytest.raises(Integrity):
        other.by_id(row.name.id)


def test_a_data_key_wrapped_by_another_tenants_key_is_refused(world):
    keyring = world.keyring()
    keyring.current(Purpose.PAYLOAD, "acme")
    [row] = world.rows.list(Purpose.PAYLOAD, "acme")
    forged = MemoryKeys()
    forged.put_if_absent(world.rows.list(Purpose.TENANT, "acme")[0])
    forged.put_if_absent(replace(row, name=replace(row.name, owner="globex")))
    with pytest.raises(Integrity, match="wrapped by a key of acme"):
        Keyring(agent=world.agent, rows=forged).by_id(row.name.id)


def test_another_root_key_opens_nothing(world):
    sealed = world.keyring().seal(Purpose.PAYLOAD, "acme", b"text")
    stranger = LocalAgent(RootKey(root=UUID(int=8), material=bytes(32)))
    with pytest.raises(Integrity):
        Keyring(agent=stranger, rows=world.rows).open(Purpose.PAYLOAD, "acme", sealed)


def test_an_unknown_key_id_is_not_found(world, tenant_key_name):
    with pytest.raises(NotFound, match="not in the store"):
        world.keyring().by_id(tenant_key_name.id)


def test_the_root_wraps_tenant_keys_only(world, tenant_key_name):
    for purpose in DATA_PURPOSES:
        with pytest.raises(Invalid):
            world.agent.wrap(replace(tenant_key_name, purpose=purpose), bytes(32))


def test_processes_that_race_for_the_first_key_agree_on_one(world):
    rings = [world.keyring() for _ in range(8)]
    gate = threading.Barrier(len(rings))
    got: list[bytes] = []

    def first(keyring: Keyring) -> None:
        gate.wait(timeout=10)
        got.append(keyring.current(Purpose.PAYLOAD, "acme").material)

    threads = [threading.Thread(target=first, args=(keyring,)) for keyring in rings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert len(got) == len(rings)
    assert len(set(got)) == 1


def test_making_rotating_and_opening_keys_is_observed(world):
    world.keyring().current(Purpose.PAYLOAD, "acme")
    world.keyring().current(Purpose.PAYLOAD, "acme")
    world.keyring().rotate(Purpose.PAYLOAD, "acme")
    assert world.events == [
        ("created", "tenant", "acme"),
        ("created", "payload", "acme"),
        ("opened", "tenant", "acme"),
        ("opened", "payload", "acme"),
        ("opened", "tenant", "acme"),
        ("created", "payload", "acme"),
        ("rotated", "payload", "acme"),
    ]


def test_rows_hold_no_clear_key(world):
    key = world.keyring().current(Purpose.PAYLOAD, "acme")
    tenant = world.keyring().current(Purpose.TENANT, "acme")
    for purpose in Purpose:
        for row in world.rows.list(purpose, "acme"):
            assert key.material not in row.wrapped
            assert tenant.material not in row.wrapped
            assert row.created_at.tzinfo is not None
            assert row.created_at <= datetime.now(UTC)


def test_opened_keys_are_neither_printed_nor_pickled(world):
    key = world.keyring().current(Purpose.PAYLOAD, "acme")
    for secret, text in ((key.material, repr(key)), (world.root.secret(), repr(world.root))):
        assert repr(secret) not in text
        assert secret.hex() not in text
    for thing in (key, world.root):
        with pytest.raises(TypeError):
            pickle.dumps(thing)


def test_credentials_open_for_their_own_site_only(world):
    keyring = world.keyring()
    secrets = {"user": "root@pam", "password": "gr\u00fcn 7"}
    sealed = seal_credentials(keyring, tenant="acme", site="par", credentials=secrets)
    assert open_credentials(keyring, tenant="acme", site="par", sealed=sealed) == secrets
    assert b"root@pam" not in sealed
    for tenant, site in (("acme", "fra"), ("globex", "par")):
        with pytest.raises(Integrity) as caught:
            open_credentials(keyring, tenant=tenant, site=site, sealed=sealed)
        assert "gr\u00fcn" not in f"{caught.value!r} {caught.value.detail}"


def test_credentials_that_are_no_table_are_refused(world):
    keyring = world.keyring()
    sealed = keyring.seal(Purpose.CREDENTIALS, "acme", json.dumps([1]).encode(), bound=b"par")
    with pytest.raises(Integrity, match="enter them again"):
        open_credentials(keyring, tenant="acme", site="par", sealed=sealed)


def test_signing_keys_differ_by_purpose_and_root_and_sign_no_book(world):
    mine = {world.agent.public_key(p) for p in SigningPurpose}
    other = LocalAgent(RootKey(root=UUID(int=9), material=bytes(32)))
    assert len({*mine, other.public_key(SigningPurpose.AUDIT)}) == len(SigningPurpose) + 1
    with pytest.raises(Invalid, match="too long"):
        world.agent.sign(SigningPurpose.AUDIT, bytes(40_000))


def test_derived_bytes_are_stable_and_are_no_key_of_the_agents_own(world):
    assert world.agent.derive("tokens") == world.agent.derive("tokens")
    assert world.agent.derive("tokens") != world.agent.derive("other")
    assert world.agent.derive("wrap") != world.root.derive("wrap")


def test_a_root_key_of_another_length_is_refused():
    with pytest.raises(Invalid):
        RootKey(root=UUID(int=1), material=b"short")
