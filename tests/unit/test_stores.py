"""Which store the settings name."""

import pytest

from controlplane.domain.errors import Denied, Invalid
from controlplane.services.stores import index_folder, open_replica, open_store
from controlplane.settings import Settings
from controlplane.vault.local import FoundObjects, LocalObjects
from controlplane.vault.paced import PacedObjects
from controlplane.vault.s3 import S3Objects

BUCKET = {
    "vault": "s3://acme-vault/fed/ctl", "vault_endpoint": "https://store.example:9000",
    "vault_access_key": "AKID", "vault_secret_key": "a-secret",
}  # fmt: skip


def place(store: S3Objects):
    return store._place


def test_a_folder_is_one(tmp_path):
    settings = Settings(vault=tmp_path / "vault")
    assert isinstance(open_store(settings), LocalObjects)
    assert (tmp_path / "vault").is_dir()
    assert open_replica(settings) is None
    assert index_folder(settings) == tmp_path / "vault-index"


def test_a_bucket_is_one_and_its_secret_is_not_shown(tmp_path):
    settings = Settings(**BUCKET, uploads=tmp_path / "uploads", vault_timeout=7)
    store = open_store(settings)
    assert (place(store).bucket, place(store).prefix) == ("acme-vault", "fed/ctl")
    assert str(place(store)) == "bucket acme-vault at https://store.example:9000"
    assert place(store).timeout.total_seconds() == 7
    assert (place(store).key().id, place(store).key().secret) == ("AKID", "a-secret")
    assert index_folder(settings) == tmp_path / "vault-index"
    for shown in (settings, place(store), place(store).key()):
        assert "a-secret" not in f"{shown!r} {shown}"


def test_credentials_come_from_a_file_that_may_change(tmp_path):
    file = tmp_path / "credentials"
    file.write_text(
        "[default]\naws_access_key_id = A\naws_secret_access_key = s%ecret\n"
        "[lent]\naws_access_key_id = B\naws_secret_access_key = t\naws_session_token = u\n"
    )
    told = {"vault": "s3://b", "vault_credentials": file}
    first = place(open_store(Settings(**told)))
    assert (first.key().id, first.key().secret, first.key().token) == ("A", "s%ecret", None)
    lent = place(open_store(Settings(**told, vault_profile="lent")))
    assert (lent.key().id, lent.key().token) == ("B", "u")
    file.write_text("[default]\naws_access_key_id = C\naws_secret_access_key = v\n")
    assert first.key().id == "C"
    with pytest.raises(Denied, match=r"under \[lent\]"):
        lent.key()
    file.unlink()
    with pytest.raises(Denied, match="cannot be read"):
        first.key()


@pytest.mark.parametrize(
    ("other", "word"),
    [
        ({"vault": "s3://"}, "is no s3://BUCKET/PREFIX"),
        ({"vault": "gs://bucket"}, "neither a folder"),
        ({"vault_endpoint": "http://store.example"}, "FEDCTL_VAULT_PLAIN_HTTP"),
        ({"vault_secret_key": None}, "FEDCTL_VAULT_ACCESS_KEY"),
    ],
)
def test_settings_that_cannot_be_are_refused_and_the_right_one_named(other, word):
    with pytest.raises(Invalid, match=word):
        open_store(Settings(**{**BUCKET, **other}))


def test_plain_http_may_be_allowed_and_bandwidth_limited():
    told = {**BUCKET, "vault_endpoint": "http://store.example", "vault_plain_http": True}
    assert isinstance(open_store(Settings(**told)), S3Objects)
    assert isinstance(open_store(Settings(**told, vault_bandwidth=1e6)), PacedObjects)


def test_a_replica_has_a_place_and_credentials_of_its_own(tmp_path):
    other = {
        "vault_replica": "s3://elsewhere/copy", "vault_replica_access_key": "OTHER",
        "vault_replica_secret_key": "another", "vault_replica_region": "eu-west-3",
    }  # fmt: skip
    replica = open_replica(Settings(**BUCKET, **other))
    assert place(replica).key().id == "OTHER"
    assert str(place(replica)) == "bucket elsewhere at https://s3.eu-west-3.amazonaws.com"
    folder = open_replica(Settings(**BUCKET, vault_replica=str(tmp_path / "copy")))
    assert isinstance(folder, FoundObjects)
    assert not (tmp_path / "copy").exists()
    with pytest.raises(Invalid, match="another store"):
        open_replica(Settings(vault=tmp_path, vault_replica=f"{tmp_path}/"))
