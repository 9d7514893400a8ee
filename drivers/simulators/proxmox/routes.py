"""A route table: method and path pattern to a function of one call."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drivers.simulators.proxmox.access import Caller
from drivers.simulators.proxmox.node import Node
from drivers.simulators.proxmox.params import checked, invalid, only


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A received file of a multipart call."""

    filename: str
    file: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One authenticated call; `at` holds the parts of its path."""

    node: Node
    caller: Caller
    at: dict[str, str]
    given: dict[str, str]
    upload: Upload | None = None

    @property
    def vmid(self) -> int:
        return int(self.at["vmid"])

    def need(self, *rights: str, path: str | None = None) -> None:
        """403 unless the caller has all rights on `path` (default: this VM)."""
        self.node.access.require(self.caller, path or f"/vms/{self.at['vmid']}", *rights)

    def may(self, path: str, *rights: str) -> bool:
        return self.node.access.may(self.caller, path, *rights)

    def take(self, *required: str, optional: str = "") -> dict[str, str]:
        """The parameters, checked, with nothing beyond those named."""
        only(self.given, frozenset(required) | frozenset(optional.split()))
        return checked(self.given, required=required)


Handler = Callable[[Ask], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    method: str
    path: re.Pattern[str]
    handler: Handler


def route(method: str, path: str, handler: Handler) -> Route:
    """`{name}` matches one part of the path, `{name*}` the rest of it."""
    pattern = re.sub(r"\{(\w+)\*\}", r"(?P<\1>.+)", path)
    pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", pattern)
    return Route(method=method, path=re.compile(pattern), handler=handler)


def vmid_of(text: str) -> str:
    """A vmid in a path, or 400."""
    if not re.fullmatch(r"[1-9]\d{2,8}", text):
        raise invalid(vmid="type check ('integer') failed - got '" + text + "'")
    return text
