"""What the XCP-ng driver makes of every kind of answer, and of none."""

import xmlrpc.client
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from controlplane.domain.errors import (
    Busy,
    Conflict,
    Denied,
    Exhausted,
    FedctlError,
    Invalid,
    NotFound,
    Unavailable,
    Unsupported,
)
from controlplane.domain.site import ProviderKind, SiteAccess, SiteName
from drivers.xcpng.client import XapiClient, code_of

SECRET = "0123456789abcdef-very-secret"
SESSION = "OpaqueRef:the-session-which-is-secret"
Answer = Callable[[BaseHTTPRequestHandler, str], None]


def access(endpoint: str, **changes) -> SiteAccess:
    wish = {
        "site": SiteName("mil-xcp"),
        "provider": ProviderKind.XCPNG,
        "endpoint": endpoint,
        "secrets": {"username": "root", "password": SECRET},
        "timeout": 5.0,
    }
    return SiteAccess(**(wish | changes))


def rpc(value: object) -> bytes:
    return xmlrpc.client.dumps((value,), methodresponse=True).encode()


def success(value: object) -> bytes:
    return rpc({"Status": "Success", "Value": value})


def failure(*description: str) -> bytes:
    return rpc({"Status": "Failure", "ErrorDescription": list(description)})


@contextmanager
def client(answer: Answer, **changes) -> Iterator[XapiClient]:
    """A client of a server that lets everybody in and answers the rest so."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = self.rfile.read(int(self.headers["Content-Length"]))
            _, method = xmlrpc.client.loads(asked)
            if method == "session.login_with_password":
                body(success(SESSION))(self, str(method))
            else:
                answer(self, str(method))

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield XapiClient(access(f"http://127.0.0.1:{server.server_port}", **changes))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def body(data: bytes, status: int = 200, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler, _method: str) -> None:
        handler.send_response(status)
        for key, value in headers.items():
            handler.send_header(key.replace("_", "-"), value)
        if "Content_Length" not in headers:
            handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    return answer


WHOLE = success("text")


@pytest.mark.parametrize(
    "answer",
    [
        body(b"<html><body>It works</body></html>"),
        body(b""),
        body(b"\x00\xff\xfe"),
        body(WHOLE[: len(WHOLE) // 2]),
        body(WHOLE, Content_Length=str(len(WHOLE) + 50)),
        body(b'{"Status": "Success"}'),
        body(rpc("text")),
        body(rpc([])),
        body(rpc({})),
        body(rpc({"Status": "Success"})),
        body(rpc({"Status": "Failure", "ErrorDescription": []})),
        body(rpc({"Status": "Failure", "ErrorDescription": "NO"})),
        body(xmlrpc.client.dumps(xmlrpc.client.Fault(500, "no"), methodresponse=True).encode()),
        body(b"", 302, Location="http://127.0.0.1:1/"),
        body(b"", 502),
        body(b"", 429, Retry_After="3"),
        body(failure("INTERNAL_ERROR", "something")),
        body(failure("A_CODE_OF_TOMORROW")),
    ],
)
def test_garbage_is_unavailable_and_has_its_cause(answer: Answer):
    with client(answer) as api, pytest.raises(Unavailable) as caught:
        api.text("VM.get_uuid", "x")
    assert caught.value.__cause__ is not None
    assert str(caught.value).startswith("site mil-xcp: VM.get_uuid: ")


@pytest.mark.parametrize("value", ["text", 7, ["a"], {"ref": "no record"}, {"ref": 1}])
def test_records_that_are_none_are_unavailable(value: object):
    with client(body(success(value))) as api, pytest.raises(Unavailable):
        api.records("VM")


def test_a_field_of_another_kind_is_unavailable():
    row = {"uuid": 7, "size": "x", "flag": "yes", "map": []}
    with client(body(success({"ref": row}))) as api:
        record = api.records("VM")["ref"]
        for look in (
            lambda: record.uuid,
            lambda: record.number("size"),
            lambda: record.flag("flag"),
            lambda: record.map("map"),
            lambda: record.refs("nowhere"),
        ):
            with pytest.raises(Unavailable, match="cannot be read"):
                look()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("RBAC_PERMISSION_DENIED", Denied),
        ("HANDLE_INVALID", NotFound),
        ("UUID_INVALID", NotFound),
        ("VM_BAD_POWER_STATE", Conflict),
        ("OPERATION_BLOCKED", Conflict),
        ("VDI_IN_USE", Conflict),
        ("OTHER_OPERATION_IN_PROGRESS", Busy),
        ("SR_FULL", Exhausted),
        ("NO_HOSTS_AVAILABLE", Exhausted),
        ("MAC_INVALID", Invalid),
        ("MESSAGE_METHOD_UNKNOWN", Unsupported),
        ("HOST_STILL_BOOTING", Unavailable),
    ],
)
def test_each_code_has_its_error(code: str, kind: type[FedctlError]):
    with client(body(failure(code, "more"))) as api, pytest.raises(FedctlError) as caught:
        api.call("VM.start", "x")
    assert type(caught.value) is kind
    assert code_of(caught.value) == code
    assert caught.value.detail == f"{code} more"


def test_our_session_shows_in_no_error():
    with client(body(failure("HANDLE_INVALID", "session", SESSION))) as api:
        with pytest.raises(NotFound) as caught:
            api.call("VM.get_record", "x")
        shown = [str(caught.value), caught.value.detail, str(caught.value.__cause__), repr(api)]
        assert all(SESSION not in text and SECRET not in text for text in shown)


def test_a_session_that_ends_again_at_once_is_not_logged_in_for_ever():
    asked = []

    def answer(handler: BaseHTTPRequestHandler, method: str) -> None:
        asked.append(method)
        body(failure("SESSION_INVALID", SESSION))(handler, method)

    with client(answer) as api, pytest.raises(Unavailable):
        api.call("VM.start", "x")
    assert asked == ["VM.start", "VM.start"]


def test_members_that_send_us_to_each_other_are_given_up():
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body(failure("HOST_IS_SLAVE", "127.0.0.1"))(self, "")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        with pytest.raises(Unavailable):
            XapiClient(access(f"http://127.0.0.1:{server.server_port}")).call("VM.get_all")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_nobody_there_is_unavailable():
    with pytest.raises(Unavailable):
        XapiClient(access("https://127.0.0.1:1", timeout=0.5)).call("VM.get_all")


@pytest.mark.parametrize(
    "changes",
    [
        {"secrets": {"username": "root"}},
        {"secrets": {"password": SECRET}},
        {"endpoint": "xcp.example"},
        {"endpoint": "ftp://xcp.example"},
    ],
)
def test_settings_that_cannot_be_are_invalid(changes: dict):
    with pytest.raises(Invalid):
        XapiClient(access(**({"endpoint": "https://xcp.example"} | changes)))
