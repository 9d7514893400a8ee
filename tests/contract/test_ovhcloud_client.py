"""What the OVHcloud driver makes of every kind of answer, and of none."""

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from controlplane.domain.errors import (
    Busy,
    Conflict,
    Denied,
    Invalid,
    NotFound,
    Unavailable,
)
from controlplane.domain.site import ProviderKind, SiteAccess, SiteName
from drivers.ovhcloud.client import OvhClient

SECRET = "0123456789abcdef-very-secret"
Answer = Callable[[BaseHTTPRequestHandler], None]


def access(endpoint: str, **changes) -> SiteAccess:
    wish = {
        "site": SiteName("rbx-metal"),
        "provider": ProviderKind.OVHCLOUD,
        "endpoint": endpoint,
        "secrets": {
            "application_key": "application",
            "application_secret": SECRET,
            "consumer_key": SECRET + "-too",
        },
        "timeout": 5.0,
    }
    return SiteAccess(**(wish | changes))


@contextmanager
def serving(answer: Answer, *, clock: bool = True) -> Iterator[str]:
    """A server that answers everything so, and tells the time if wished; its endpoint."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            if clock and self.path.endswith("/auth/time"):
                body(str(int(time.time())).encode())(self)
            else:
                answer(self)

        do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815  # the base class's names

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/1.0"
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


def refusal(status: int, message: str, **more: str) -> Answer:
    return body(json.dumps({"message": message, **more}).encode(), status)


@contextmanager
def client(answer: Answer, *, clock: bool = True, **changes) -> Iterator[OvhClient]:
    with serving(answer, clock=clock) as endpoint:
        made = OvhClient(access(endpoint, **changes))
        try:
            yield made
        finally:
            made.close()


WHOLE = json.dumps([{"name": "ns1", "urn": "urn:v1:eu:resource:x:ns1", "tags": {}}]).encode()


@pytest.mark.parametrize(
    "answer",
    [
        body(b"<html><body>It works</body></html>"),
        body(b""),
        body(b"\x00\xff\xfe"),
        body(WHOLE[: len(WHOLE) // 2]),
        body(WHOLE, Content_Length=str(len(WHOLE) + 50)),
        body(b'{"ok": true}'),
        body(b"7"),
        body(b"", 302, Location="/1.0/vrack"),
        body(b"", 302, Location="http://127.0.0.1:1/1.0"),
        body(b"<html>", 502),
        body(b"", 503),
        body(b"Too Many Requests", 429, Retry_After="60"),
    ],
    ids=range(12),
)
def test_garbage_is_unavailable_with_its_cause(answer: Answer):
    with client(answer) as api, pytest.raises(Unavailable) as caught:
        api.pages("/v2/iam/resource", resourceType="dedicatedServer")
    assert caught.value.__cause__ is not None
    assert "iam/resource" in str(caught.value)
    assert SECRET not in repr(caught.value) + caught.value.detail


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (refusal(400, "no such thing", **{"class": "Client::BadParameters"}), Invalid),
        (refusal(401, "x", errorCode="INVALID_CREDENTIAL"), Denied),
        (refusal(403, "x", errorCode="NOT_GRANTED_CALL", httpCode="403 Forbidden"), Denied),
        (body(b"<html>forbidden", 403), Denied),
        (refusal(404, "x", **{"class": "Client::NotFound"}), NotFound),
        (refusal(409, "taken", **{"class": "Client::Conflict"}), Conflict),
        (refusal(409, "An action is already pending on this server"), Busy),
        (refusal(400, "A reinstall is in progress"), Busy),
        (refusal(460, "This service is expired"), Denied),
        (body(b"[]", 500), Unavailable),
    ],
    ids=range(10),
)
def test_a_refusal_is_named_by_its_status_and_its_words(answer: Answer, kind: type[Exception]):
    with client(answer) as api, pytest.raises(kind) as caught:
        api.get("/dedicated/server/ns1")
    assert type(caught.value) is kind
    assert caught.value.__cause__ is not None


def test_an_address_of_an_image_is_not_repeated():
    told = refusal(400, "cannot fetch https://gateway.example/images/secret-token.raw today")
    with client(told) as api, pytest.raises(Invalid) as caught:
        api.post("/dedicated/server/ns1/reinstall", {"operatingSystem": "byoi_64"})
    assert "secret-token" not in str(caught.value) + caught.value.detail
    assert "(an address) today" in str(caught.value)


@pytest.mark.parametrize(
    "answer", [body(b'"soon"'), body(b"<html>"), body(b"", 503), body(b"[]", 403)], ids=range(4)
)
def test_a_clock_that_cannot_be_read_is_no_crash(answer: Answer):
    with client(answer, clock=False) as api, pytest.raises((Unavailable, Denied)) as caught:
        api.get("/dedicated/server")
    assert caught.value.__cause__ is not None


def test_a_clock_that_was_told_wrong_is_asked_for_again():
    told = [b"86400"]

    def answer(handler: BaseHTTPRequestHandler) -> None:
        now = time.time()
        if handler.path.endswith("/auth/time"):
            body(told.pop() if told else str(int(now)).encode())(handler)
        elif abs(int(handler.headers["X-Ovh-Timestamp"]) - now) > 60:
            refusal(400, "Invalid timestamp", errorCode="QUERY_TIME_OUT")(handler)
        else:
            body(b"[]")(handler)

    with client(answer, clock=False) as api:
        assert api.get("/dedicated/server") == []
        assert not told


def test_a_clock_that_stays_wrong_is_unavailable():
    refused = refusal(400, "Invalid timestamp", errorCode="QUERY_TIME_OUT")
    with client(refused) as api, pytest.raises(Unavailable, match="Invalid timestamp"):
        api.get("/dedicated/server")


def test_a_listing_goes_on_to_its_last_page_and_no_further():
    def pages(handler: BaseHTTPRequestHandler) -> None:
        at = int(handler.headers.get("X-Pagination-Cursor", "0"))
        after = {"X_Pagination_Cursor_Next": str(at + 1)} if at < 3 else {}
        body(json.dumps([at]).encode(), **after)(handler)

    with client(pages) as api:
        assert api.pages("/v2/iam/resource") == [0, 1, 2, 3]


def test_a_listing_without_an_end_is_given_up():
    with (
        client(body(b"[]", X_Pagination_Cursor_Next="1")) as api,
        pytest.raises(Unavailable, match="cannot be read"),
    ):
        api.pages("/v2/iam/resource")


def test_a_server_that_accepts_and_never_answers_is_left_in_time():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}/1.0"
        for secrets in (
            access("http://x/1.0").secrets,
            {"client_id": "account", "client_secret": SECRET},
        ):
            options = {"token_url": endpoint + "/token"}
            api = OvhClient(access(endpoint, timeout=0.3, secrets=secrets, options=options))
            with pytest.raises(Unavailable):  # and the test's time limit is not reached
                api.get("/dedicated/server")
            api.close()


def test_a_token_is_fetched_once_and_again_before_its_end():
    asked: list[str] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        if handler.path.endswith("/token"):
            told = {"access_token": f"t{len(asked)}", "expires_in": 31}
            body(json.dumps(told).encode())(handler)
        else:
            assert re.fullmatch(r"Bearer t\d+", handler.headers["Authorization"])
            body(b"[]")(handler)

    with serving(answer) as endpoint:
        api = OvhClient(
            access(
                endpoint,
                secrets={"client_id": "account", "client_secret": SECRET},
                options={"token_url": endpoint + "/token"},
            )
        )
        api.get("/dedicated/server")
        api.get("/v2/iam/resource")
        assert asked == ["/1.0/token", "/1.0/dedicated/server", "/v2/iam/resource"]
        time.sleep(1.05)
        api.get("/vrack")
        assert asked[3:] == ["/1.0/token", "/1.0/vrack"]
        api.close()


@pytest.mark.parametrize(
    "changes",
    [
        {"endpoint": "ftp://x"},
        {"endpoint": ""},
        {"secrets": {}},
        {"secrets": {"application_key": "a", "application_secret": "b"}},
        {"secrets": {"client_id": "a", "client_secret": "b"}},
    ],
)
def test_what_cannot_log_in_is_invalid(changes: dict):
    with pytest.raises(Invalid):
        OvhClient(
            access("http://127.0.0.1:1/1.0", **{"options": {}, **changes})
            if "endpoint" not in changes
            else access(**changes)
        )


def test_nothing_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OVH_APPLICATION_SECRET", "another")
    monkeypatch.setenv("OVH_CLIENT_ID", "somebody")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    seen: list[str] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        seen.append(handler.headers["X-Ovh-Application"])
        body(b"[]")(handler)

    with client(answer) as api:
        assert api.get("/vrack") == []
    assert seen == ["application"]
