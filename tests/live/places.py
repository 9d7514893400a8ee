"""The real sites that the environment names, each as its card describes it.

For a kind of provider, say openstack, the names that its card documents make the variables:
LIVE_OPENSTACK_ENDPOINT, LIVE_OPENSTACK_SECRET_USERNAME, LIVE_OPENSTACK_OPTION_PROJECT,
LIVE_OPENSTACK_PIN_TLS and so on. A value that begins with @ names a file that holds it. Beside
them: LIVE_OPENSTACK_NETWORK (the name of the network to use; the first), LIVE_OPENSTACK_TIMEOUT
(60 s a call), LIVE_OPENSTACK_DEADLINE (240 s for what a test waits for).
LIVE_GUEST is a disk image for moves whose guest prints `FEDGUEST up ... boots=N` on its serial
console; LIVE_GATEWAY is the host:port of this machine that the sites may fetch images from.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from controlplane.domain.site import ProviderKind, SiteAccess, SiteName
from drivers.cards import card

GUEST, GATEWAY = "LIVE_GUEST", "LIVE_GATEWAY"
_PARTS = ("secret", "option", "pin")
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A real site. `network`: a name, empty for the first."""

    access: SiteAccess
    network: str
    deadline: float


def variable(kind: ProviderKind, name: str) -> str:
    return f"LIVE_{kind.value}_{name}".upper()


def place(kind: ProviderKind, given: Mapping[str, str]) -> Place | None:
    """The site of `kind`, or None where the environment names no endpoint for it."""
    endpoint = given.get(variable(kind, "endpoint"))
    if not endpoint:
        return None
    known = {part: _known(kind, part, given) for part in _PARTS}
    access = SiteAccess(
        site=SiteName(f"live-{kind.value}"),
        provider=kind,
        endpoint=endpoint,
        secrets=known["secret"],
        options=known["option"],
        pins=known["pin"],
        timeout=float(given.get(variable(kind, "timeout"), "60")),
    )
    return Place(
        access=access,
        network=given.get(variable(kind, "network"), ""),
        deadline=float(given.get(variable(kind, "deadline"), "240")),
    )


def gateway_address(given: Mapping[str, str]) -> tuple[str, int]:
    """Where image files are served for sites that fetch: a free port of loopback if none is set."""
    host, _, port = given.get(GATEWAY, "").rpartition(":")
    return host or LOOPBACK, int(port or 0)


def _known(kind: ProviderKind, part: str, given: Mapping[str, str]) -> dict[str, str]:
    """What is set of the card's lines of one part, by the names that the driver knows."""
    found = {}
    for line in card(kind.value).facts:
        if line.startswith(f"{part}_") and (value := given.get(variable(kind, line))):
            found[line.removeprefix(f"{part}_")] = _read(value)
    return found


def _read(value: str) -> str:
    return Path(value[1:]).read_text(encoding="utf-8") if value.startswith("@") else value
