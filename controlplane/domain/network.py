"""Networks of a site and the nics that instances have on them."""

from dataclasses import dataclass
from ipaddress import ip_address


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """MACs or addresses from `first` to `last`, both among them."""

    first: str
    last: str

    def holds(self, value: str) -> bool:
        """Whether `value`, a MAC or an address as these are, is among them."""
        low, this, high = (_ordered(each) for each in (self.first, value, self.last))
        return low[0] == this[0] == high[0] and low <= this <= high


def _ordered(value: str) -> tuple[str, int]:
    """A MAC or address as something that can be compared with others of its kind."""
    if value.count(":") == 5 and "::" not in value:  # noqa: PLR2004  # six bytes
        return "mac", int(value.replace(":", ""), 16)
    address = ip_address(value)
    return f"ip{address.version}", int(address)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSeen:
    """A network of a site. `ref` is the provider's id; `cidr` empty where the site knows none.

    `macs` and `addresses` are those that a nic may have here; None where the site takes any.
    """

    ref: str
    name: str
    cidr: str = ""
    macs: tuple[Span, ...] | None = None
    addresses: tuple[Span, ...] | None = None


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
