"""Who may do what at a simulated node: tickets, API tokens, roles, and privilege separation."""

import hashlib
import hmac
import re
import secrets
import threading
import time
from dataclasses import dataclass

from drivers.simulators.proxmox.params import Refused

_VM_RIGHTS = (
    *("Allocate", "Audit", "Clone", "Console", "PowerMgmt", "Migrate", "Backup"),
    *("Snapshot", "Snapshot.Rollback", "Config.CDROM", "Config.CPU", "Config.Cloudinit"),
    *("Config.Disk", "Config.HWType", "Config.Memory", "Config.Network", "Config.Options"),
    *("GuestAgent.Audit", "GuestAgent.FileSystemMgmt", "GuestAgent.Unrestricted"),
)
FEDCTL_ROLE = frozenset(f"VM.{right}" for right in _VM_RIGHTS) | frozenset(
    {"Datastore.Allocate", "Datastore.AllocateSpace", "Datastore.AllocateTemplate"}
    | {"Datastore.Audit", "Sys.AccessNetwork", "Sys.Audit", "Sys.Console", "SDN.Use"}
)
AUDITOR_ROLE = frozenset({"VM.Audit", "Datastore.Audit", "Sys.Audit"})
_TICKET_SECONDS = 7200
_TOKEN = re.compile(r"PVEAPIToken=([^@!= ]+@[^@!= ]+)!([A-Za-z][A-Za-z0-9._-]+)=(\S+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks: a user, or a token of a user."""

    user: str
    token: str | None = None
    privsep: bool = False

    @property
    def name(self) -> str:
        return f"{self.user}!{self.token}" if self.token else self.user


class Access:
    """Users, tokens and access control lists; `root@pam` may everything."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._secret = secrets.token_bytes(32)
        self._passwords: dict[str, str] = {}
        self._tokens: dict[tuple[str, str], tuple[str, bool]] = {}
        self._acls: dict[tuple[str, str], frozenset[str]] = {}

    # -- set-up --------------------------------------------------------------------------------

    def add_user(self, user: str, password: str) -> None:
        self._passwords[user] = password

    def add_token(self, user: str, token: str, secret: str, *, privsep: bool = True) -> None:
        self._tokens[user, token] = (secret, privsep)

    def remove_token(self, user: str, token: str) -> None:
        self._tokens.pop((user, token), None)

    def grant(self, who: str, path: str, rights: frozenset[str]) -> None:
        """Give a user (`name@realm`) or token (`name@realm!id`) rights from `path` down."""
        self._acls[who, path] = rights

    def revoke(self, who: str, path: str) -> None:
        self._acls.pop((who, path), None)

    # -- who -----------------------------------------------------------------------------------

    def log_in(self, user: str, password: str) -> tuple[str, str] | None:
        """Ticket and CSRF token, or None; a valid ticket of the user does as password."""
        known = self._passwords.get(user)
        if known is None:
            return None
        if not hmac.compare_digest(known, password) and self._of_ticket(password) != user:
            return None
        issued = f"{int(time.time()):08X}"
        ticket = f"PVE:{user}:{issued}::{self._sign(user, issued)}"
        return ticket, f"{issued}:{self._sign(user, issued, 'csrf')}"

    def caller(self, *, authorization: str, ticket: str, csrf: str, changes: bool) -> Caller:
        """Who this request is from; 401 when nobody we know."""
        if authorization:
            match = _TOKEN.fullmatch(authorization)
            if match is None:
                raise Refused(401, "no token value")
            secret, privsep = self._tokens.get((match[1], match[2]), ("", True))
            if not secret or not hmac.compare_digest(secret, match[3]):
                raise Refused(401, "invalid token value!" if secret else "no such token")
            return Caller(user=match[1], token=match[2], privsep=privsep)
        user = self._of_ticket(ticket)
        if user is None:
            raise Refused(
                401, "No ticket" if not ticket else "permission denied - invalid PVE ticket"
            )
        if changes:
            issued, _, signature = csrf.partition(":")
            if not hmac.compare_digest(signature, self._sign(user, issued, "csrf")):
                raise Refused(401, "Permission check failed (invalid CSRF token)")
        return Caller(user=user)

    # -- what ----------------------------------------------------------------------------------

    def rights(self, caller: Caller, path: str) -> frozenset[str] | None:
        """The rights on `path`, None for all; a separated token has what it and its user share."""
        of_user = None if caller.user == "root@pam" else self._of(caller.user, path)
        if caller.token is None or not caller.privsep:
            return of_user
        of_token = self._of(caller.name, path)
        return of_token if of_user is None else of_user & of_token

    def may(self, caller: Caller, path: str, *rights: str) -> bool:
        """Whether the caller has all of the rights on `path`."""
        held = self.rights(caller, path)
        return held is None or set(rights) <= held

    def require(self, caller: Caller, path: str, *rights: str) -> None:
        if not self.may(caller, path, *rights):
            raise Refused(403, f"Permission check failed ({path}, {'|'.join(rights)})")

    def permissions(self, caller: Caller) -> dict[str, dict[str, int]]:
        """What `/access/permissions` answers."""
        paths = {"/", "/access", "/nodes", "/storage", "/vms", "/sdn"} | {
            path for _, path in self._acls
        }
        out = {}
        for path in sorted(paths):
            held = self.rights(caller, path)
            if held := FEDCTL_ROLE | {"Sys.Modify"} if held is None else held:
                out[path] = dict.fromkeys(sorted(held), 1)
        return out

    # -- inside --------------------------------------------------------------------------------

    def _of(self, who: str, path: str) -> frozenset[str]:
        """The list nearest to `path` decides."""
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts), -1, -1):
            here = "/" + "/".join(parts[:depth])
            if (who, here) in self._acls:
                return self._acls[who, here]
        return frozenset()

    def _of_ticket(self, ticket: str) -> str | None:
        match = re.fullmatch(r"PVE:([^:]+):([0-9A-F]{8})::([0-9a-f]{64})", ticket)
        if match is None or not hmac.compare_digest(match[3], self._sign(match[1], match[2])):
            return None
        return match[1] if time.time() - int(match[2], 16) < _TICKET_SECONDS else None

    def _sign(self, *parts: str) -> str:
        return hmac.new(self._secret, ":".join(parts).encode(), hashlib.sha256).hexdigest()
