"""What an operator sets, read once in a composition root."""

from ipaddress import ip_network
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from controlplane.logs import LogFormat

Network = Annotated[str, AfterValidator(lambda text: str(ip_network(text)))]


class Settings(BaseSettings):
    """Every setting of the server processes; each is read from `FEDCTL_<NAME>`.

    `vault` is a folder or `s3://bucket/prefix` and holds packs and manifests, `vault_replica` is
    where a copy of it is kept, as good as another owner's; `vault_index` is a local cache. The
    folder `uploads` holds image files until they are imported. Bandwidths are bytes a second.
    `gateway_url` is the address under which sites reach the image gateway; its images expire after
    `image_lifetime`. Of `gateway_proxies` (addresses and networks) X-Forwarded-For is believed, to
    know an image's client; without any the peer is the client. `agent_socket` is the
    key agent's unix socket. Times are seconds; a site that gave no answer for `site_patience` is
    frozen until it was surveyed. A worker moves the bytes of `copies_per_worker` disks at a time,
    and of as many more in cutovers, which at most `cutovers_at_once` warm moves begin unasked.
    At most `moves_at_once` moves run, of each tenant and at each site no more than is said for it,
    and `moves_waiting` more wait for their turn. Every
    `vault_check_every` seconds (0: never) a share of all stored blobs is read back, another each
    time.
    """

    model_config = SettingsConfigDict(env_prefix="FEDCTL_", frozen=True, extra="ignore")

    database_url: str = "sqlite:////var/lib/fedctl/fedctl.db"
    temporal_address: str = "127.0.0.1:7233"
    temporal_namespace: str = "default"
    agent_socket: Path = Path("/run/fedctl/agent.sock")
    vault: Annotated[str, BeforeValidator(str)] = "/var/lib/fedctl/vault"
    vault_endpoint: str | None = None
    vault_region: str = "us-east-1"
    vault_access_key: str | None = None
    vault_secret_key: SecretStr | None = None
    vault_credentials: Path | None = None
    vault_profile: str = "default"
    vault_plain_http: bool = False
    vault_authority: Path | None = None
    vault_timeout: Annotated[float, Field(gt=0)] = 60.0
    vault_bandwidth: Annotated[float, Field(gt=0)] | None = None
    vault_index: Path | None = None
    vault_replica: str | None = None
    vault_replica_endpoint: str | None = None
    vault_replica_region: str = "us-east-1"
    vault_replica_access_key: str | None = None
    vault_replica_secret_key: SecretStr | None = None
    vault_replica_credentials: Path | None = None
    vault_replica_profile: str = "default"
    vault_replica_plain_http: bool = False
    vault_replica_authority: Path | None = None
    vault_replica_bandwidth: Annotated[float, Field(gt=0)] | None = None
    uploads: Path = Path("/var/lib/fedctl/uploads")
    gateway_host: str = "127.0.0.1"
    gateway_port: int = 8444
    gateway_url: str = "http://127.0.0.1:8444"
    gateway_certificate: Path | None = None
    gateway_key: Path | None = None
    gateway_proxies: tuple[Network, ...] = ()
    image_lifetime: Annotated[float, Field(gt=0)] = 7 * 86400.0
    api_host: str = "127.0.0.1"
    api_port: int = 8443
    public_url: str = "http://127.0.0.1:8443"
    regions: tuple[str, ...] = ("eu-fr",)
    provider_timeout: float = 20.0
    site_patience: float = 600.0
    copies_per_worker: int = 16
    cutovers_at_once: Annotated[int, Field(ge=1)] = 4
    moves_at_once: Annotated[int, Field(ge=1)] = 50
    moves_per_site: Annotated[int, Field(ge=1)] = 50
    moves_per_tenant: Annotated[int, Field(ge=1)] = 50
    moves_waiting: Annotated[int, Field(ge=0)] = 500
    vault_check_every: Annotated[float, Field(ge=0)] = 86400.0
    vault_check_share: Annotated[float, Field(gt=0, le=1)] = 0.01
    log_level: str = "info"
    log_format: LogFormat = "text"
    list_token_key: SecretStr | None = None
