"""The extension keys that clients may set, as data, and their checking."""

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from controlplane.domain.errors import Invalid
from controlplane.domain.instance import Firmware
from controlplane.domain.resource import Kind
from controlplane.planning.retention import FORM, parse

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_NETWORK_MAX = 128


def _address(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def _mac(value: str) -> bool:
    """A single station's address: group addresses have the lowest bit of the first octet set."""
    return bool(_MAC.fullmatch(value)) and not int(value[:2], 16) & 1


def _retention(value: str) -> bool:
    try:
        parse(value)
    except Invalid:
        return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtensionKey:
    """`form` tells people what a value looks like; `mutable` whether a later PUT may change it."""

    name: str
    form: str
    kinds: frozenset[Kind]
    holds: Callable[[str], bool]
    mutable: bool = False


EXTENSION_KEYS: tuple[ExtensionKey, ...] = (
    ExtensionKey(
        name="fedctl:network",
        form="the name of a network at the instance's site, at most 128 characters",
        kinds=frozenset({Kind.INSTANCE}),
        holds=lambda value: 0 < len(value) <= _NETWORK_MAX,
    ),
    ExtensionKey(
        name="fedctl:address",
        form="an IPv4 or IPv6 address",
        kinds=frozenset({Kind.INSTANCE}),
        holds=_address,
    ),
    ExtensionKey(
        name="fedctl:mac",
        form="a MAC address in lower case, such as 52:54:00:12:34:56",
        kinds=frozenset({Kind.INSTANCE}),
        holds=_mac,
    ),
    ExtensionKey(
        name="fedctl:firmware",
        form="bios or uefi",
        kinds=frozenset({Kind.INSTANCE}),
        holds=lambda value: value in set(Firmware),
    ),
    ExtensionKey(
        name="fedctl:retention",
        form=FORM,
        kinds=frozenset({Kind.WORKSPACE}),
        holds=_retention,
        mutable=True,
    ),
)


def admit_extensions(
    kind: Kind, wished: Mapping[str, str], present: Mapping[str, str] | None
) -> None:
    """Invalid for a key that `kind` does not know, a bad value, or a change of a fixed key."""
    known = {key.name: key for key in EXTENSION_KEYS if kind in key.kinds}
    for name, value in wished.items():
        if name not in known:
            choice = ", ".join(sorted(known)) or "none"
            raise Invalid(f"extensions: {kind} knows no key {name[:80]!r}; it knows: {choice}")
        if not known[name].holds(value):
            raise Invalid(f"extensions: {name} is {value[:80]!r}, but must be {known[name].form}")
    if present is None:
        return
    for name, key in known.items():
        if not key.mutable and wished.get(name) != present.get(name):
            raise Invalid(
                f"extensions: {name} is {present.get(name)!r} and cannot be changed:"
                " keep it, or delete and create anew"
            )
