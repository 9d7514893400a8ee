"""The audit log, wrapped keys, tenants, users and tokens."""

from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from controlplane.audit.checkpoint import Checkpoint, signed_note
from controlplane.audit.entries import leaf
from controlplane.audit.export import verify
from controlplane.audit.merkle import leaf_hash, root
from controlplane.domain.audit import AuditEntry
from controlplane.domain.errors import Conflict, Integrity, Invalid, NotFound
from controlplane.domain.identity import TokenRecord, User
from controlplane.domain.ids import TenantName, UserName
from controlplane.keys.port import KeyId, KeyName, Purpose, WrappedKey, WrappedKeys
from controlplane.store.engine import Store
from controlplane.store.ports import StoredKeys
from tests.store.nouns import SECOND, T0, at_once, fresh, key, resource_id

SIGNER = Ed25519PrivateKey.generate()
PUBLIC = SIGNER.public_key().public_bytes_raw()


def said(tenant="acme", **fields):
    return AuditEntry(
        sequence=0, at=T0, actor="ada", tenant=tenant, action="instance.put", subject="shop/web-1",
        outcome="accepted", **fields,
    )  # fmt: skip


def head(tx):
    size, top = tx.audit.checkpoint()
    checkpoint = Checkpoint(origin="fedctl.test/audit", size=size, root=top)
    return signed_note(checkpoint, public_key=PUBLIC, sign=SIGNER.sign)


@pytest.fixture
def log(empty_url):
    """A store whose log is empty."""
    store = Store(empty_url)
    store.migrate()
    yield store
    store.close()


# --- audit --------------------------------------------------------------------------------------


def test_entries_are_numbered_from_nought_and_dated_by_the_log(log):
    with log.begin() as tx:
        assert tx.audit.checkpoint() == (0, root([]))
        first = tx.audit.append(said(detail={"to": "par-pve"}), T0 + SECOND)
        second = tx.audit.append(said(tenant="other", operation="op", request="r"), T0)
    assert first == replace(said(detail={"to": "par-pve"}), sequence=0, at=T0 + SECOND)
    with log.read() as tx:
        assert tx.audit.entries() == [first, second]
        assert tx.audit.entries(after=1) == [second]
        assert tx.audit.entries(limit=1) == [first]
        assert tx.audit.entries(tenant=TenantName("other")) == [second]
        assert tx.audit.checkpoint() == (2, root([leaf_hash(leaf(e)) for e in (first, second)]))
        assert [(e.kind, e.id) for e in tx.events.after(0)] == [
            ("audit-entry", "0"),
            ("audit-entry", "1"),
        ]


def test_entries_appended_at_once_leave_no_gap_and_one_tree(log):
    def append(actor):
        got = []
        for n in range(6):
            with log.begin() as tx:
                got.append(tx.audit.append(replace(said(), actor=f"{actor}-{n}"), T0))
        return got

    results = at_once(*(lambda a=a: append(a) for a in "abcd"))
    answered = sorted((entry for got in results for entry in got), key=lambda e: e.sequence)
    assert [e.sequence for e in answered] == list(range(24))
    with log.read() as tx:
        assert tx.audit.entries() == answered
        assert tx.audit.checkpoint() == (24, root([leaf_hash(leaf(e)) for e in answered]))


def test_an_entry_stands_or_falls_with_what_it_tells_of(log):
    where = key()

    def half():
        with log.begin() as tx:
            tx.resources.put(where, id=resource_id(), spec={}, now=T0)
            tx.audit.append(said(), T0)
            raise NotFound("no further")

    with pytest.raises(NotFound):
        half()
    with log.read() as tx:
        assert tx.audit.checkpoint()[0] == 0
        assert tx.resources.find(where) is None


def test_an_exported_log_proves_itself(log):
    with log.begin() as tx:
        tx.audit.store_checkpoint(head(tx))
        for n in range(1200):  # more than the export reads at a time
            tx.audit.append(said(detail={"n": str(n)}), T0)
            if n in {0, 499, 1198}:
                tx.audit.store_checkpoint(head(tx))
    with log.begin() as tx:
        note = head(tx)
        tx.audit.store_checkpoint(note)
        tx.audit.store_checkpoint(note)
        assert len(tx.audit.checkpoints()) == 5
        assert tx.audit.checkpoints()[-1] == note
    with log.read() as tx:
        lines = list(tx.audit.export())
    proven = verify(lines, PUBLIC, held=[note])
    assert (proven.entries, proven.checkpoints) == (1200, 5)
    with pytest.raises(Integrity):
        verify([*lines[:7], *lines[8:]], PUBLIC)


def test_a_row_that_was_altered_shows_in_the_export(log):
    from sqlalchemy import text

    with log.begin() as tx:
        for _ in range(3):
            tx.audit.append(said(), T0)
        tx.audit.store_checkpoint(head(tx))
        tx.outbox._session.execute(
            text("UPDATE audit_entries SET actor = 'eve' WHERE sequence = 1")
        )
    with log.read() as tx:
        lines = list(tx.audit.export())
    with pytest.raises(Integrity):
        verify(lines, PUBLIC)


def test_only_checkpoints_of_the_log_are_kept(log):
    with log.begin() as tx:
        for wrong in ("", "origin\nmany\nroot\n", "origin\n5\nroot\n"):
            with pytest.raises(Invalid):
                tx.audit.store_checkpoint(wrong)


# --- keys ---------------------------------------------------------------------------------------


def wrapped(owner, version=1, purpose=Purpose.TENANT):
    name = KeyName(id=KeyId(uuid4()), purpose=purpose, owner=owner, version=version)
    return WrappedKey(name=name, wrapped=uuid4().bytes, wrapped_by="root-1", created_at=T0)


def test_the_first_key_of_a_name_stands(store):
    keys: WrappedKeys = StoredKeys(store)
    owner = fresh("t")
    first, late, second = wrapped(owner), wrapped(owner), wrapped(owner, version=2)
    assert keys.put_if_absent(second) == second
    assert keys.put_if_absent(first) == first
    assert keys.put_if_absent(late) == first
    assert keys.get(first.name.id) == first
    assert keys.get(late.name.id) is None
    assert keys.list(Purpose.TENANT, owner) == (first, second)
    assert keys.list(Purpose.PAYLOAD, owner) == ()
    assert {row.name.version for row in keys.every() if row.name.owner == owner} == {1, 2}
    assert (
        keys.put_if_absent(wrapped(owner, purpose=Purpose.PAYLOAD)).name.purpose is Purpose.PAYLOAD
    )


def test_keys_made_at_once_agree_on_one(store):
    keys, owner = StoredKeys(store), fresh("t")
    rows = [wrapped(owner) for _ in range(4)]
    standing = at_once(*(lambda row=row: keys.put_if_absent(row) for row in rows))
    assert set(standing) == {standing[0]}
    assert keys.list(Purpose.TENANT, owner) == (standing[0],)


# --- identity -----------------------------------------------------------------------------------


def person(tenant, **fields):
    return User(name=UserName(fresh("ada")), tenant=tenant, **fields)


@pytest.fixture
def tenant(store):
    name = TenantName(fresh("t"))
    with store.begin() as tx:
        tx.identity.tenants.add(name, T0)
    return name


def test_tenants_are_added_once_and_listed_by_name(store, tenant):
    second = TenantName(f"{tenant}-b")
    with store.begin() as tx:
        made = tx.identity.tenants.add(second, T0 + SECOND)
        assert tx.identity.tenants.get(second) == made
        with pytest.raises(Conflict):
            tx.identity.tenants.add(tenant, T0)
        with pytest.raises(NotFound):
            tx.identity.tenants.get(TenantName("nobody"))
        names = [each.name for each in tx.identity.tenants.list()]
    assert names == sorted(names)
    assert {tenant, second} <= set(names)


def test_users_belong_to_a_tenant_and_change_passwords(store, tenant):
    ada = person(tenant, password="hash-1", created_at=T0)
    with store.begin() as tx:
        users = tx.identity.users
        assert users.add(ada) == ada
        assert users.get(ada.name) == ada
        assert users.list(tenant) == (ada,)
        assert ada in users.list()
        with pytest.raises(Conflict):
            users.add(replace(ada, password=""))
        with pytest.raises(NotFound, match="tenant"):
            users.add(person(TenantName("nobody")))
        with pytest.raises(NotFound):
            users.set_password(UserName("nobody"), "x")
        assert users.find(UserName("nobody")) is None
        assert users.set_password(ada.name, "hash-2").password == "hash-2"
        assert users.disable(ada.name).disabled
        assert not users.enable(ada.name).disabled
        assert users.add(person(tenant)).created_at is not None
    with store.read() as tx:
        assert tx.identity.users.get(ada.name) == replace(ada, password="hash-2")


def token(user, digest="", **fields):
    return TokenRecord(
        id=uuid4(), user=user.name, tenant=user.tenant, digest=digest or uuid4().hex,
        created_at=T0, **fields,
    )  # fmt: skip


def test_a_token_is_found_by_its_digest_and_revoked_once(store, tenant):
    ada = person(tenant)
    mine = token(ada, expires_at=T0 + timedelta(days=1), note="laptop")
    with store.begin() as tx:
        tx.identity.users.add(ada)
        tokens = tx.identity.tokens
        tokens.add(mine)
        with pytest.raises(Conflict):
            tokens.add(token(ada, digest=mine.digest))
        with pytest.raises(NotFound):
            tokens.revoke(uuid4(), T0)
        assert tokens.by_hash("unknown") is None
        later = replace(token(ada), created_at=T0 + SECOND)
        tokens.add(later)
        assert tokens.list(ada.name) == (later, mine)
    with store.begin() as tx:
        assert tx.identity.tokens.by_hash(mine.digest) == mine
        gone = tx.identity.tokens.revoke(mine.id, T0 + SECOND)
        assert tx.identity.tokens.revoke(mine.id, T0 + 2 * SECOND) == gone
    with store.read() as tx:
        assert tx.identity.tokens.by_hash(mine.digest) == replace(mine, revoked_at=T0 + SECOND)


def test_a_token_needs_its_user(store, tenant):
    with pytest.raises(Conflict):
        _add_token(store, token(person(tenant)))


def _add_token(store, record):
    with store.begin() as tx:
        tx.identity.tokens.add(record)
