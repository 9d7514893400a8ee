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
    """One nic as wished, on the network with this `ref`. `mac` and `address` None: site's choice.

    `isolated` nics exist but carry no traffic until `connect_nics`.
    """

    network: str
    mac: str | None = None
    address: str | None = None
    isolated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NicSeen:
    """A nic of a seen instance; `network` is a network's `ref`."""

    network: str
    mac: str
    address: str | None
    isolated: bool
