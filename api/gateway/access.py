"""Which image a token stands for just now, and who may fetch it."""

import logging
from base64 import b64encode
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from time import monotonic

from controlplane.domain.placement import Served

_LOOK_AGAIN = 1.0
_REMEMBERED = 256

Find = Callable[[str], Served | None]

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Open:
    """An image that a token opens: what its answers have in common, and what they owe.

    `unpaid` are bytes that were sent and not yet counted against anybody's bandwidth.
    """

    served: Served
    etag: str
    headers: Sequence[tuple[bytes, bytes]]
    looked: float
    unpaid: int = field(default=0)


class Access:
    """Asks for each token at most once a second; only what is served is remembered, a while."""

    def __init__(self, find: Find, clock: Callable[[], datetime]) -> None:
        self._find = find
        self._clock = clock
        self._known: OrderedDict[str, Open] = OrderedDict()

    def remembered(self, token_sha256: str) -> Open | None:
        """What was found within the last second; never waits."""
        known = self._known.get(token_sha256)
        if known is None or monotonic() - known.looked > _LOOK_AGAIN or self.over(known.served):
            return None
        return known

    def look(self, token_sha256: str) -> Open | None:
        """What the token opens, from the records; None for unknown, revoked or expired."""
        looked = monotonic()
        served = self._find(token_sha256)
        if served is None or served.revoked or self.over(served):
            self._known.pop(token_sha256, None)
            return None
        known = self._known.get(token_sha256)
        if known is None or known.served != served:
            known = Open(
                served=served, etag=f'"{served.sha256}"', headers=_headers(served), looked=0
            )
        known.looked = looked
        self._known[token_sha256] = known
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return known

    def over(self, served: Served) -> bool:
        return served.expires_at is not None and served.expires_at <= self._clock()


def may_fetch(served: Served, client: str | None) -> bool:
    """Whether that address is one of those that the image is for; a refusal is logged."""
    if not served.clients:
        return True
    address = _address(client)
    if address and any(address in ip_network(each, strict=False) for each in served.clients):
        return True
    _log.warning(
        "an image for %s was asked for by %s, with its token: refused",
        ", ".join(served.clients),
        client or "nobody that could be told",
        extra={"operation": str(served.operation), "client": client or ""},
    )
    return False


def _address(client: str | None) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address((client or "").partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _headers(served: Served) -> Sequence[tuple[bytes, bytes]]:
    digests = f"sha-256={_structured(served.sha256)}, sha-512={_structured(served.sha512)}"
    return tuple(
        (name.encode(), value.encode())
        for name, value in (
            ("accept-ranges", "bytes"),
            ("cache-control", "private, no-store"),
            ("content-type", "application/octet-stream"),
            ("etag", f'"{served.sha256}"'),
            ("repr-digest", digests),
            ("x-content-type-options", "nosniff"),
        )
    )


def _structured(hexadecimal: str) -> str:
    """A digest as RFC 9530 writes it."""
    return f":{b64encode(bytes.fromhex(hexadecimal)).decode()}:"
