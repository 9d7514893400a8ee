"""What the OpenNebula driver makes of every kind of answer, and of none."""

import re
import ssl
import threading
import xmlrpc.client
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from controlplane.domain.errors import (
    Conflict,
    Denied,
    Exhausted,
    Integrity,
    Invalid,
    NotFound,
    Unavailable,
    Unsupported,
)
from controlplane.domain.site import ProviderKind, SiteAccess, SiteName
from drivers.opennebula.client import OneClient
from drivers.simulators.proxmox import ProxmoxSim

SECRET = "0123456789abcdef-very-secret"
Answer = Callable[[BaseHTTPRequestHandler], None]


def access(endpoint: str, **changes) -> SiteAccess:
    wish = {
        "site": SiteName("bru-one"),
        "provider": ProviderKind.OPENNEBULA,
        "endpoint": endpoint,
        "secrets": {"username": "fedctl", "token": SECRET},
        "timeout": 5.0,
    }
    return SiteAccess(**(wish | changes))


@contextmanager
def serving(answer: Answer) -> Iterator[str]:
    """A server that answers every POST so; its endpoint."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            answer(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/RPC2"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def body(data: bytes, status: int = 200, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for key, value in headers.items():
            handler.send_header(key.replace("_", "-"), value)
        if "Content_Length" not in headers:
            handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def array(values: list[object]) -> Answer:
    return body(xmlrpc.client.dumps((values,), methodresponse=True).encode())


@contextmanager
def client(answer: Answer, **changes) -> Iterator[OneClient]:
    with serving(answer) as endpoint:
        client = OneClient(access(endpoint, **changes))
        try:
            yield client
        finally:
            client.close()


WHOLE = xmlrpc.client.dumps(([True, "<A><ID>1</ID></A>", 0],), methodresponse=True).encode()


@pytest.mark.parametrize(
    "answer",
    [
        body(b"<html><body>It works</body></html>"),
        body(b""),
        body(b"\x00\xff\xfe"),
        body(WHOLE[: len(WHOLE) // 2]),
        body(WHOLE, Content_Length=str(len(WHOLE) + 50)),
        body(b'{"ok": true}'),
        body(xmlrpc.client.dumps(("text",), methodresponse=True).encode()),
        body(xmlrpc.client.dumps(([],), methodresponse=True).encode()),
        body(xmlrpc.client.dumps((7,), methodresponse=True).encode()),
        array([True]),
        array(["yes", "<A/>", 0]),
        array([False, 7, "code"]),
        array([True, 7, 0]),
        array([True, "<A><ID>1</ID>", 0]),
        array([True, "no XML at all", 0]),
        array([True, "", 0]),
        body(b"", 302, Location="http://127.0.0.1:1/RPC2"),
        body(b"", 502),
        body(b"", 429, Retry_After="3"),
    ],
    ids=range(19),
)
def test_garbage_is_unavailable_with_its_cause(answer: Answer):
    with client(answer) as one, pytest.raises(Unavailable) as caught:
        one.record("vm.info", 1)
    assert caught.value.__cause__ is not None
    assert "vm.info" in str(caught.value)
    assert SECRET not in repr(caught.value) + caught.value.detail


def test_no_answer_that_was_cut_or_lost_a_tag_raises_anything_else():
    tags = sorted({bytes(tag) for tag in re.findall(rb"<[^>]+>", WHOLE)})
    answers = [WHOLE.replace(tag, b"", 1) for tag in tags]
    answers += [WHOLE.replace(one, two) for one in tags for two in tags if one != two]
    answers += [WHOLE[:end] for end in range(0, len(WHOLE), 7)]
    waiting = iter(answers)

    def next_answer(handler: BaseHTTPRequestHandler) -> None:
        body(next(waiting))(handler)

    outcomes = {"good": 0, "named": 0}
    with client(next_answer) as one:
        for _ in answers:
            try:
                one.record("vm.info", 1)
                outcomes["good"] += 1
            except (Unavailable, Invalid, Unsupported):
                outcomes["named"] += 1
    assert outcomes["named"] > 100


def test_a_record_without_a_number_where_one_must_be_is_unavailable():
    with client(array([True, "<VM><ID>one</ID><STATE/></VM>", 0])) as one:
        record = one.record("vm.info", 1)
    for path in ("ID", "STATE", "LCM_STATE"):
        with pytest.raises(Unavailable, match="no number"):
            record.number(path)
    assert record.number("STATE", 0) == 0


def test_entities_that_would_grow_without_end_are_not_followed():
    bomb = '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">' + "".join(
        f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(12)
    )
    with client(array([True, f"{bomb}]><a>&m;</a>", 0])) as one, pytest.raises(Unavailable):
        one.record("vm.info", 1)


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        (256, "[one.x] User couldn't be authenticated, aborting call.", Denied),
        (512, "[one.x] User [2] : Not authorized to perform USE HOST [0].", Denied),
        (512, "[one.x] user [2] limit of 1 reached for VMS quota in VM.", Exhausted),
        (512, "[one.x] User [0] : VM is locked. [0].", Conflict),
        (1024, "[one.vm.info] Error getting virtual machine [9999].", NotFound),
        (2048, "[one.x] This action is not available for state HOLD", Conflict),
        (4096, "Incorrect filter_flag", Invalid),
        (8192, "NAME is already taken by TEMPLATE 0.", Conflict),
        (8192, "Parse error: syntax error, unexpected end of file", Invalid),
        (8192, "Cannot get IP/MAC lease from virtual network 0.", Conflict),
        (8192, "something inside broke", Unavailable),
        (16384, "Error allocating a new image. NAME is already taken by IMAGE 0.", Conflict),
        (16384, "Not enough space in datastore", Exhausted),
        (99, "what nobody has seen", Unavailable),
    ],
)
def test_refusals_are_named_by_code_and_then_by_text(code: int, text: str, kind: type):
    with client(array([False, text, code, -1, -1])) as one, pytest.raises(kind) as caught:
        one.call("x")
    assert type(caught.value) is kind
    assert caught.value.detail == text
    assert "site bru-one: x" in str(caught.value)


@pytest.mark.parametrize(
    ("code", "kind"), [(-506, Unsupported), (-501, Invalid), (-503, Invalid), (-500, Unavailable)]
)
def test_faults_are_named_too(code: int, kind: type):
    fault = xmlrpc.client.dumps(xmlrpc.client.Fault(code, "no"), methodresponse=True).encode()
    with client(body(fault)) as one, pytest.raises(kind):
        one.call("x")


def test_addresses_of_images_are_cut_out_of_what_the_site_says():
    text = "Error copying http://gateway.invalid/i/SECRETTOKEN?x=1 to the datastore"
    with client(array([False, text, 16384, -1, -1])) as one, pytest.raises(Unavailable) as caught:
        one.call("image.allocate", "x", 1)
    assert "SECRETTOKEN" not in repr(caught.value) + caught.value.detail + str(
        caught.value.__cause__
    )


def test_a_certificate_is_pinned_or_must_be_trusted(tmp_path):
    # Any TLS server does: what counts is its certificate.
    with ProxmoxSim(tmp_path / "tls") as tls:
        endpoint = tls.url + "/RPC2"
        with pytest.raises(Denied, match="not trusted"):
            OneClient(access(endpoint)).call("system.version")
        wrong = {"tls": ":".join(["00"] * 32)}
        with pytest.raises(Integrity, match="not the registered one"):
            OneClient(access(endpoint, pins=wrong)).call("system.version")
        right = {"tls": tls.credentials.fingerprint}
        with pytest.raises((Unavailable, Denied, Invalid, NotFound, Unsupported)) as caught:
            OneClient(access(endpoint, pins=right)).call("system.version")
        assert "ertificate" not in str(caught.value), "it was accepted, and is no oned"
    assert ssl.create_default_context().check_hostname


@pytest.mark.parametrize(
    "changes",
    [
        {"secrets": {}},
        {"secrets": {"username": "a:b", "token": "x"}},
        {"secrets": {"username": "fedctl"}},
        {"endpoint": "one.example:2633"},
        {"endpoint": "ftp://one.example/RPC2"},
    ],
)
def test_credentials_and_endpoints_of_a_wrong_shape_are_invalid(changes):
    with pytest.raises(Invalid):
        OneClient(access(**({"endpoint": "http://one.example:2633/RPC2"} | changes)))
