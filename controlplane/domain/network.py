"""Networks of a site and the nics that instances have on them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSeen:
    """A network of a site. `ref` is the provider's id; `cidr` empty where the site knows none."""

    ref: str
    name: str
    cidr: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NicSpec:
    """One nic as wished. `mac` and `address` None lets the site choose.

    `isolated` nics exist but carry no traffic until `connect_nics`.
    """

    network: str
    mac: str | None = None
    address: str | None = None
    isolated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NicSeen:
    network: str
    mac: str
    address: str | None
    isolated: bool
