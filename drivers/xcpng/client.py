"""The one place that speaks to XAPI: XenAPI on a wire of ours, raw disks, our errors.

XenAPI names the calls. Its own wire has no timeout and asks again on a connection that broke, and
it logs in again by itself with an answer that hides which call was refused: so the wire and the
sessions are ours. See DECISIONS.md.
"""

import hashlib
import hmac
import http.client
import ssl
import time
import xmlrpc.client as xmlrpc
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit
from xml.parsers.expat import ExpatError

import XenAPI

from controlplane.domain.errors import (
    Busy,
    Conflict,
    Denied,
    Exhausted,
    FedctlError,
    Integrity,
    Invalid,
    NotFound,
    Unavailable,
    Unsupported,
)
from controlplane.domain.site import SiteAccess
from drivers.wire import UNREADABLE, PlainConnection, SecureConnection

NULL = "OpaqueRef:NULL"
_OK, _FOUND = 200, 302
_PART = 1 << 20
_VERSION, _ORIGINATOR = "2.0", "fedctl"
_REDIRECTS = 3

_CODES: dict[type[FedctlError], str] = {
    Denied: "SESSION_AUTHENTICATION_FAILED RBAC_PERMISSION_DENIED SESSION_NOT_REGISTERED"
    " USER_IS_NOT_LOCAL_SUPERUSER AUTH_SERVICE_ERROR PERMISSION_DENIED",
    NotFound: "HANDLE_INVALID UUID_INVALID OBJECT_NOLONGER_EXISTS",
    Conflict: "VM_BAD_POWER_STATE OPERATION_BLOCKED OPERATION_NOT_ALLOWED VDI_IN_USE"
    " MAP_DUPLICATE_KEY DEVICE_ALREADY_EXISTS DEVICE_ALREADY_DETACHED DEVICE_DETACH_REJECTED"
    " NETWORK_CONTAINS_VIF NETWORK_CONTAINS_PIF VM_IS_TEMPLATE VM_IS_SNAPSHOT VM_LACKS_FEATURE"
    " VM_SHUTDOWN_TIMEOUT VDI_READONLY VM_MISSING_PV_DRIVERS",
    Busy: "OTHER_OPERATION_IN_PROGRESS TOO_MANY_PENDING_TASKS VDI_NOT_AVAILABLE TASK_CANCELLED",
    Exhausted: "SR_FULL SR_BACKEND_FAILURE_44 HOST_NOT_ENOUGH_FREE_MEMORY NO_HOSTS_AVAILABLE"
    " HOST_NOT_ENOUGH_PCPUS",
    Invalid: "FIELD_TYPE_ERROR INVALID_VALUE MAC_INVALID MEMORY_CONSTRAINT_VIOLATION"
    " MEMORY_CONSTRAINT_VIOLATION_ORDER VALUE_NOT_SUPPORTED MESSAGE_PARAMETER_COUNT_MISMATCH"
    " SR_BACKEND_FAILURE_79 VDI_TOO_SMALL VDI_TOO_LARGE",
    Unsupported: "MESSAGE_METHOD_UNKNOWN MESSAGE_DEPRECATED MESSAGE_REMOVED"
    " SR_OPERATION_NOT_SUPPORTED VDI_INCOMPATIBLE_TYPE LICENCE_RESTRICTION NOT_IMPLEMENTED"
    " VM_HVM_REQUIRED",
}
_BY_CODE = {code: kind for kind, codes in _CODES.items() for code in codes.split()}
_BY_STATUS: dict[int, type[FedctlError]] = {
    400: Invalid,
    401: Denied,
    403: Denied,
    404: NotFound,
    409: Conflict,
}
_NEXT: dict[type[FedctlError], str] = {
    Invalid: "fix the wish",
    Denied: "check username, password and the role of that user",
    NotFound: "look what is there",
    Conflict: "look at its state, then decide",
    Unsupported: "update the pool or choose another site",
    Exhausted: "free some, or choose another site",
    Busy: "ask again",
    Unavailable: "ask again later",
}
R = TypeVar("R")


class Refused(Exception):
    """What XAPI itself answered: a code and its parameters."""

    def __init__(self, description: list[str]) -> None:
        super().__init__(" ".join(description))
        self.code, self.parameters = description[0], description[1:]


class _Status(Exception):
    """An HTTP status that is not the one we need."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


class _Fingerprint(Exception):
    """Another certificate than the registered one."""


class Record:
    """An object of XAPI's as a call showed it; what is not as it should be is Unavailable."""

    def __init__(self, ref: str, row: Mapping[str, Any], about: str) -> None:
        self.ref, self._row, self._about = ref, row, about

    def text(self, field: str) -> str:
        return self._typed(field, str)

    def number(self, field: str) -> int:
        try:
            return int(self._row[field])
        except (KeyError, ValueError, TypeError) as e:
            raise self._unreadable(field) from e

    def flag(self, field: str) -> bool:
        return self._typed(field, bool)

    def map(self, field: str) -> dict[str, str]:
        return self._typed(field, dict)

    def refs(self, field: str) -> list[str]:
        return self._typed(field, list)

    def lists(self, field: str) -> bool:
        """Whether the object names others in a field, which older pools may not have."""
        return bool(self._row.get(field))

    @property
    def uuid(self) -> str:
        return self.text("uuid")

    def _typed(self, field: str, kind: type[R]) -> R:
        value = self._row.get(field)
        if not isinstance(value, kind):
            raise self._unreadable(field)
        return value

    def _unreadable(self, field: str) -> Unavailable:
        return Unavailable(f"{self._about}: {field} of {self.ref} cannot be read: ask again")


class XapiClient:
    """One session with the coordinator of one pool."""

    def __init__(self, access: SiteAccess) -> None:
        self.site, self.timeout = access.site, access.timeout
        self._user = access.secrets.get("username", "")
        self._password = access.secrets.get("password", "")
        if not self._user or not self._password:
            raise Invalid(
                f"site {access.site}: the credentials must name username and password: store both"
                " again"
            )
        where = urlsplit(access.endpoint)
        if where.scheme not in {"http", "https"} or not where.hostname:
            raise Invalid(f"site {access.site}: the endpoint must be https://host")
        self.encrypted = where.scheme == "https"
        self._host, self._port = where.hostname, where.port or (443 if self.encrypted else 80)
        self._pins = _fingerprints(access.pins.get("tls", ""))
        self._session = ""
        self._sdk = XenAPI.Session(access.endpoint, transport=_Wire(self._sent))

    def __repr__(self) -> str:
        return f"XapiClient({self._host!r})"

    def close(self) -> None:
        if self._session:
            with suppress(FedctlError):
                self.call("session.logout")
            self._session = ""

    @property
    def session(self) -> str:
        """The session, logged in to now if there is none; a secret."""
        if not self._session:
            with self.translated("session.login_with_password"):
                self._log_in()
        return self._session

    # -- calls ---------------------------------------------------------------------------------

    def call(self, method: str, *parameters: Any) -> Any:  # noqa: ANN401  # XAPI's values
        """What `method` answers; a session that ended is begun anew, once: nothing was done."""
        with self.translated(method):
            if not self._session:
                self._log_in()
            try:
                return self._asked(method, (self._session, *parameters))
            except Refused as e:
                if e.code != "SESSION_INVALID":
                    raise
            self._log_in()
            return self._asked(method, (self._session, *parameters))

    def text(self, method: str, *parameters: Any) -> str:  # noqa: ANN401  # as above
        found = self.call(method, *parameters)
        with self.translated(method):
            if not isinstance(found, str):
                raise TypeError("the answer is no text")
        return str(found)

    def records(self, cls: str) -> dict[str, Record]:
        """Every object of a class."""
        method = f"{cls}.get_all_records"
        found = self.call(method)
        about = f"site {self.site}: {method}"
        with self.translated(method):
            return {str(ref): Record(str(ref), dict(row), about) for ref, row in found.items()}

    def record(self, cls: str, ref: str) -> Record:
        method = f"{cls}.get_record"
        found = self.call(method, ref)
        with self.translated(method):
            return Record(ref, dict(found), f"site {self.site}: {method}")

    def _log_in(self) -> None:
        """At the coordinator, wherever it is now."""
        self._session = ""
        for _ in range(_REDIRECTS):
            given = (self._user, self._password, _VERSION, _ORIGINATOR)
            try:
                self._session = str(self._asked("session.login_with_password", given))
            except Refused as e:
                if e.code != "HOST_IS_SLAVE" or not e.parameters:
                    raise
                self._host = e.parameters[0]
            else:
                return
        raise ValueError("the pool's members send us to each other")

    def _asked(self, method: str, parameters: tuple[Any, ...]) -> Any:  # noqa: ANN401  # XAPI's values
        # By its own name: behind `xenapi` the SDK would log in again.
        match getattr(self._sdk, method)(*parameters):
            case {"Status": "Success", "Value": found}:
                return found
            case {"Status": "Failure", "ErrorDescription": [str(), *_] as description}:
                raise Refused([self._said(str(each)) for each in description])
            case _:
                raise ValueError("the answer is neither a success nor a failure")

    def _sent(self, body: bytes) -> bytes:
        with self._connected() as connection:
            connection.request("POST", "/RPC2", body, {"Content-Type": "text/xml"})
            with connection.getresponse() as answer:
                if answer.status != _OK:
                    raise _Status(answer.status)
                told: bytes = answer.read()
                return told

    # -- raw disks -----------------------------------------------------------------------------

    def put(self, vdi: str, parts: Iterable[bytes], length: int, *, task: str, **how: str) -> None:
        """Send a body of `length` bytes to a disk; only the task tells what became of it."""
        query = {"vdi": vdi, "format": "raw", "session_id": self.session, "task_id": task, **how}
        with (
            self.translated("import_raw_vdi"),
            self._connected() as connection,
        ):
            connection.putrequest("PUT", f"/import_raw_vdi?{urlencode(query)}")
            connection.putheader("Content-Length", str(length))
            connection.endheaders()
            broken: OSError | None = None
            try:
                for part in parts:
                    connection.send(part)
            except OSError as e:
                broken = e
            try:
                with connection.getresponse() as answer:
                    if answer.status != _OK:
                        raise _Status(answer.status)
            except (OSError, http.client.HTTPException) as e:
                raise broken or e from e

    def get(self, vdi: str, *, task: str, **how: str) -> Iterator[bytes]:
        """All bytes of a disk, as far as they come; only the task tells whether that was all."""
        query = {"vdi": vdi, "format": "raw", "session_id": self.session, "task_id": task, **how}
        path = f"/export_raw_vdi?{urlencode(query)}"
        host = self._host
        with self.translated("export_raw_vdi"):
            for _ in range(_REDIRECTS):
                with self._connected(host) as connection:
                    connection.request("GET", path)
                    with connection.getresponse() as answer:
                        if answer.status == _FOUND:  # the storage is another host's
                            host = urlsplit(answer.headers["Location"]).hostname or host
                            continue
                        if answer.status != _OK:
                            raise _Status(answer.status)
                        while part := answer.read(_PART):
                            yield part
                            connection.go_on()
                        return
            raise ValueError("the pool's hosts send us to each other")

    @contextmanager
    def task(self, label: str) -> Iterator[str]:
        """A task of ours for a transfer, destroyed at the end."""
        ref = self.text("task.create", label, "")
        try:
            yield ref
        finally:
            with suppress(FedctlError):
                self.call("task.destroy", ref)

    def awaited(self, task: str, what: str) -> None:
        """Return when the task succeeded; what it failed with is raised. Bounded by the timeout."""
        token, end = "", time.monotonic() + self.timeout
        while True:
            seen = self.record("task", task)
            status = seen.text("status")
            if status == "success":
                return
            with self.translated(what):
                if status in {"failure", "cancelled"}:
                    raise Refused(
                        [*seen.refs("error_info"), ""] if seen.refs("error_info") else [""]
                    )
                if time.monotonic() > end:
                    raise TimeoutError("the task did not end in time")
            patience = str(round(min(self.timeout / 2, 5.0), 1))
            batch = self.call("event.from", [f"task/{task}"], token, float(patience))
            with self.translated(what):
                token = str(batch["token"])

    # -- inside --------------------------------------------------------------------------------

    @contextmanager
    def _connected(self, host: str = "") -> Iterator[PlainConnection | SecureConnection]:
        connection = self._connection(host or self._host)
        try:
            connection.connect()
            if self._pins and self.encrypted:
                shown = hashlib.sha256(connection.sock.getpeercert(binary_form=True) or b"")
                if not any(hmac.compare_digest(shown.hexdigest(), pin) for pin in self._pins):
                    raise _Fingerprint
            yield connection
        finally:
            connection.close()

    def _connection(self, host: str) -> PlainConnection | SecureConnection:
        if not self.encrypted:
            return PlainConnection(host, self._port, timeout=self.timeout)
        return SecureConnection(host, self._port, timeout=self.timeout, context=self._context)

    @cached_property
    def _context(self) -> ssl.SSLContext:
        if not self._pins:
            return ssl.create_default_context()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # the fingerprint decides, whoever signed
        context.verify_mode = ssl.CERT_NONE
        return context

    @contextmanager
    def translated(self, method: str) -> Iterator[None]:
        """Our error for theirs; theirs is the cause."""
        about = f"site {self.site}: {method}"
        try:
            yield
        except Refused as e:
            kind = _BY_CODE.get(e.code, Unavailable)
            said = str(e).strip() or "it failed"
            raise kind(f"{about}: {said}: {_NEXT[kind]}", detail=said) from e
        except _Status as e:
            kind = _BY_STATUS.get(e.status, Unavailable)
            raise kind(f"{about}: {e}: {_NEXT[kind]}", detail=str(e)) from e
        except _Fingerprint as e:
            raise Integrity(
                f"{about}: the certificate is not the registered one: compare its fingerprint at"
                " the site before registering it anew"
            ) from e
        except ssl.SSLCertVerificationError as e:
            raise Denied(
                f"{about}: the certificate is not trusted: pin its fingerprint at registration"
            ) from e
        except (OSError, http.client.HTTPException) as e:
            raise Unavailable(
                f"{about}: no answer; what was asked may have happened: ask again",
                detail=type(e).__name__,
            ) from e
        except (
            *UNREADABLE,
            ExpatError,
            xmlrpc.Error,
        ) as e:
            raise Unavailable(f"{about}: the answer cannot be read: ask again") from e

    def _said(self, text: str) -> str:
        """XAPI's own words without our session, which its errors name."""
        return text.replace(self._session, "(our session)") if self._session else text


class _Wire(xmlrpc.Transport):
    """The SDK's calls by a function of ours, wherever the coordinator is now."""

    def __init__(self, send: Callable[[bytes], bytes]) -> None:
        super().__init__()
        self._send = send

    def request(  # the base class's shape
        self,
        host: object,  # noqa: ARG002
        handler: str,  # noqa: ARG002
        request_body: Any,  # noqa: ANN401
        verbose: bool = False,  # noqa: ARG002, FBT001, FBT002
    ) -> tuple[Any, ...]:
        # Not with builtin types: XAPI ends its dates with a Z, which Python refuses.
        answer, _ = xmlrpc.loads(self._send(request_body))
        return answer


def _fingerprints(pins: str) -> tuple[str, ...]:
    """One for each host of the pool, with commas between."""
    cleaned = (pin.replace(":", "").strip().lower() for pin in pins.split(","))
    return tuple(pin for pin in cleaned if pin)


def code_of(error: FedctlError) -> str:
    """XAPI's code behind an error of ours; empty where it was none of XAPI's."""
    cause = error.__cause__
    return cause.code if isinstance(cause, Refused) else ""
