"""What an operator sets, read once in a composition root."""

from ipaddress import ip_network
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from controlplane.logs import LogFormat

Network = Annotated[str, AfterValidator(lambda text: str(ip_network(text)))]


class Settings(BaseSettings):
    """Every setting of the server processes; each is read from `FEDCTL_<NAME>`.

    Folders hold: `vault` packs and manifests, `uploads` image files until they are imported.
    `gateway_url` is the address under which sites reach the image gateway; its images expire after
    `image_lifetime`. Of `gateway_proxies` (addresses and networks) X-Forwarded-For is believed, to
    know an image's client; without any the peer is the client. `agent_socket` is the
    key agent's unix socket. Times are seconds; a site that gave no answer for `site_patience` is
    frozen until it was surveyed. A worker moves the bytes of `copies_per_worker` disks at a time,
    and of as many more in cutovers, which at most `cutovers_at_once` warm moves begin unasked.
    At most `moves_at_once` moves run, of each tenant and at each site no more than is said for it,
    and `moves_waiting` more wait for their turn.
    """

    model_config = SettingsConfigDict(env_prefix="FEDCTL_", frozen=True, extra="ignore")

    database_url: str = "sqlite:////var/lib/fedctl/fedctl.db"
    temporal_address: str = "127.0.0.1:7233"
    temporal_namespace: str = "default"
    agent_socket: Path = Path("/run/fedctl/agent.sock")
    vault: Path = Path("/var/lib/fedctl/vault")
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
    log_level: str = "info"
    log_format: LogFormat = "text"
    list_token_key: SecretStr | None = None
