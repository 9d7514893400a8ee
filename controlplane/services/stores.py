"""Which object store the settings name: a folder of this machine, or a bucket."""

import configparser
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

from controlplane.domain.errors import Denied, Invalid
from controlplane.settings import Settings
from controlplane.vault.local import FoundObjects, LocalObjects
from controlplane.vault.paced import PacedObjects
from controlplane.vault.ports import ObjectStore
from controlplane.vault.s3 import S3Key, S3Objects, S3Place

_BUCKET = "s3"


def open_store(settings: Settings) -> ObjectStore:
    """The vault's store. Nothing is asked of a bucket yet; Invalid for settings that cannot be."""
    return _opened(
        "FEDCTL_VAULT",
        settings.vault,
        endpoint=settings.vault_endpoint,
        region=settings.vault_region,
        key=_key(
            "FEDCTL_VAULT",
            settings.vault_access_key,
            settings.vault_secret_key,
            settings.vault_credentials,
            settings.vault_profile,
        ),
        plain_http=settings.vault_plain_http,
        authority=settings.vault_authority,
        timeout=settings.vault_timeout,
        bandwidth=settings.vault_bandwidth,
        folder=LocalObjects,
    )


def open_replica(settings: Settings) -> ObjectStore | None:
    """The store that a copy of the vault is kept in; None without one. A folder is not made."""
    if settings.vault_replica is None:
        return None
    if settings.vault_replica.rstrip("/") == settings.vault.rstrip("/") and (
        settings.vault_replica_endpoint == settings.vault_endpoint
    ):
        raise Invalid(
            f"FEDCTL_VAULT_REPLICA is the vault itself ({settings.vault}): name another store, of"
            " another owner"
        )
    return _opened(
        "FEDCTL_VAULT_REPLICA",
        settings.vault_replica,
        endpoint=settings.vault_replica_endpoint,
        region=settings.vault_replica_region,
        key=_key(
            "FEDCTL_VAULT_REPLICA",
            settings.vault_replica_access_key,
            settings.vault_replica_secret_key,
            settings.vault_replica_credentials,
            settings.vault_replica_profile,
        ),
        plain_http=settings.vault_replica_plain_http,
        authority=settings.vault_replica_authority,
        timeout=settings.vault_timeout,
        bandwidth=settings.vault_replica_bandwidth,
        folder=FoundObjects,
    )


def index_folder(settings: Settings) -> Path:
    """Where a worker keeps its cache of the vault's index."""
    if settings.vault_index is not None:
        return settings.vault_index
    folder = settings.uploads if _is_bucket(settings.vault) else Path(settings.vault)
    return folder.with_name("vault-index")


def _opened(
    name: str, where: str, *, endpoint: str | None, region: str, key: Callable[[], S3Key],
    plain_http: bool, authority: Path | None, timeout: float, bandwidth: float | None,
    folder: Callable[[Path], ObjectStore],
) -> ObjectStore:  # fmt: skip
    store: ObjectStore
    if _is_bucket(where):
        url = urlsplit(where)
        if not url.netloc or url.query or url.fragment:
            raise Invalid(f"{name}: {where!r} is no s3://BUCKET/PREFIX")
        if endpoint and urlsplit(endpoint).scheme != "https" and not plain_http:
            raise Invalid(
                f"{name}_ENDPOINT: {endpoint} is not https: what is in the vault is encrypted, its"
                f" names and your access are not; {name}_PLAIN_HTTP=true allows it"
            )
        key()
        store = S3Objects(
            S3Place(
                bucket=url.netloc,
                prefix=url.path.strip("/"),
                endpoint=endpoint,
                region=region,
                key=key,
                plain_http=plain_http,
                authority=_read(authority, f"{name}_AUTHORITY") if authority else None,
                timeout=timedelta(seconds=timeout),
            )
        )
    else:
        store = folder(_folder(where, name))
    return PacedObjects(store, bandwidth) if bandwidth else store


def _is_bucket(where: str) -> bool:
    return urlsplit(where).scheme == _BUCKET


def _folder(where: str, name: str) -> Path:
    if "://" in where:
        raise Invalid(
            f"{name}: {where!r} is neither a folder nor s3://BUCKET/PREFIX"
            + (
                "; FEDCTL_VAULT_INDEX has to name a file of this machine"
                if _is_bucket(where)
                else ""
            )
        )
    return Path(where)


def _key(
    name: str, given: str | None, secret: SecretStr | None, file: Path | None, profile: str
) -> Callable[[], S3Key]:
    """Asked for whenever it is to sign: a file may change under us."""
    if given and secret:
        fixed = S3Key(id=given, secret=secret.get_secret_value())
        return lambda: fixed
    if file is not None:
        return lambda: _key_of(file, profile)

    def missing() -> S3Key:
        raise Invalid(
            f"{name} is a bucket: give {name}_ACCESS_KEY and {name}_SECRET_KEY, or in"
            f" {name}_CREDENTIALS the path of a file with them"
        )

    return missing


def _key_of(file: Path, profile: str) -> S3Key:
    """Of a credentials file as Amazon's tools write it."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(_read(file, "the credentials file").decode())
        found = parser[profile]
        return S3Key(
            id=found["aws_access_key_id"],
            secret=found["aws_secret_access_key"],
            token=found.get("aws_session_token"),
        )
    except (configparser.Error, KeyError, ValueError) as e:
        # The error itself may quote the file.
        raise Denied(
            f"{file} has no aws_access_key_id and aws_secret_access_key under [{profile}]"
        ) from (e if isinstance(e, KeyError) else None)


def _read(file: Path, what: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as e:
        raise Denied(f"{what}: {file} cannot be read: {e.strerror}") from e
