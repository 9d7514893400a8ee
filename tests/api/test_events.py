"""The stream of changes: resumed by cursor, told to those who may hear, ended with the server."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
import uvicorn

from api.http.app import create_app
from api.http.feed import Feed, Server
from tests.api.world import AUTHORIZATION, FEDERATION, IDENTITY, WORKSPACES, World


def path(w: World, tenant: str | None = None) -> str:
    return f"{FEDERATION}/tenants/{tenant or w.tenant}/events"


class Stream:
    def __init__(self, answer: httpx.Response) -> None:
        self._lines = answer.iter_lines()
        self.cursor = ""

    def message(self) -> tuple[str, dict | None]:
        """The next one; its data is None for a beat."""
        kind, data = "", None
        for line in self._lines:
            name, _, value = line.partition(": ")
            if name == "id":
                self.cursor = value
            elif name == "event":
                kind = value
            elif name == "data":
                data = json.loads(value)
            elif not line:
                return kind, data
        raise EOFError

    def end(self) -> None:
        while True:
            self.message()

    def until(self, name: str) -> list[dict]:
        """All that is told, up to a change of the thing with this name."""
        told = []
        while not told or told[-1]["name"] != name:
            _, data = self.message()
            if data:
                told.append(data)
        return told


@contextmanager
def listening(client: httpx.Client, where: str, **more) -> Iterator[Stream]:
    with client.stream("GET", where, timeout=10, **more) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        stream = Stream(answer)
        stream.begin = stream.message()
        yield stream


def test_a_change_is_told_when_it_is_committed(w: World):
    with listening(w.http, path(w)) as stream:
        name = w.workspace()
        told = stream.until(name)[-1]
    assert told.pop("at")
    assert told == {
        "kind": "workspace",
        "name": name,
        "tenant": w.tenant,
        "ref": f"seca.workspace/v1/tenants/{w.tenant}/workspaces/{name}",
        "state": "active",
    }


@pytest.mark.parametrize("how", ["header", "query"])
def test_a_listener_goes_on_where_it_was(w: World, how: str):
    with listening(w.http, path(w)) as stream:
        first = w.workspace()
        stream.until(first)
    missed, last = w.workspace(), w.workspace()
    more = (
        {"headers": {"Last-Event-ID": stream.cursor}}
        if how == "header"
        else {"params": {"since": stream.cursor}}
    )
    with listening(w.http, path(w), **more) as stream:
        names = [each["name"] for each in stream.until(last) if each["kind"] == "workspace"]
    assert names == [missed, last]


def test_a_cursor_of_another_life_or_of_what_is_to_come_is_reset(w: World):
    with listening(w.http, path(w)) as stream:
        life, _, number = stream.cursor.partition(".")
    other = "00000000-0000-4000-8000-000000000000"
    for cursor in (f"{other}.{number}", f"{life}.{int(number) + 10_000}"):
        with listening(w.http, path(w), params={"since": cursor}) as stream:
            assert stream.begin == ("reset", {})
            name = w.workspace()
            assert stream.until(name)  # and it goes on from now


def test_a_cursor_from_before_what_is_kept_is_reset(w: World):
    with listening(w.http, path(w)) as stream:
        old = stream.cursor
    w.workspace()
    with w.store.begin() as tx:
        tx.events.prune(1)
    with listening(w.http, path(w), params={"since": old}) as stream:
        assert stream.message() == ("reset", {})


def test_what_is_no_cursor_is_invalid(w: World):
    assert w.http.get(path(w), params={"since": "yesterday"}).status_code == 412


def test_another_tenant_is_not_heard(w: World):
    _, stranger = w.user("globex")
    with stranger:
        assert stranger.get(path(w)).status_code == 403
        assert stranger.get(path(w, "globex")).status_code == 403  # without any role
        assert stranger.get(f"{FEDERATION}/events").status_code == 403


def test_a_listener_hears_of_its_own_workspace_alone_and_of_no_more_once_the_role_is_gone(w: World):
    mine, other = w.workspace(), w.workspace()
    name, client = w.user()
    grant = w.in_tenant(AUTHORIZATION, f"role-assignments/{w.fresh('grant')}")
    spec = {"subs": [name], "scopes": [{"workspaces": [mine]}], "roles": ["seca.workspace-viewer"]}
    assert w.put(grant, spec).status_code == 201
    with client, listening(client, path(w)) as stream:
        w.volume(other)
        volume = w.volume(mine)
        told = stream.until(volume)
        assert {each.get("workspace", each["name"]) for each in told} == {mine}
        assert w.http.delete(grant).status_code == 202
        w.volume(mine)
        w.put(w.in_tenant(WORKSPACES, f"workspaces/{mine}"), {}, labels={"a": "b"})
        with w.store.read() as tx:
            last = tx.events.last()
        while int(stream.cursor.rpartition(".")[2]) < last:
            assert stream.message()[1] is None


def test_a_stream_says_no_secret(w: World):
    with listening(w.http, f"{FEDERATION}/events") as stream:
        w.site()
        name = w.workspace()
        told = stream.until(name)
    assert {"kind", "name", "ref", "at"} <= set(told[0])
    assert all(
        set(e) <= {"kind", "name", "tenant", "workspace", "ref", "at", "state", "phase", "what"}
        for e in told
    )
    assert "s3cret" not in json.dumps(told)


def test_a_revoked_token_ends_its_stream(w: World, monkeypatch):
    name, client = w.user()
    grant = w.in_tenant(AUTHORIZATION, f"role-assignments/{w.fresh('grant')}")
    spec = {"subs": [name], "scopes": [{}], "roles": ["seca.admin"]}
    assert w.put(grant, spec).status_code == 201
    monkeypatch.setattr("controlplane.services.changes._TRUSTED", -1.0)
    with client, listening(client, path(w)) as stream:
        (token,) = client.get(f"{IDENTITY}/tokens").json()["items"]
        assert client.delete(f"{IDENTITY}/tokens/{token['id']}").status_code == 202
        w.workspace()
        with pytest.raises(EOFError):
            stream.end()


async def test_one_look_serves_all_and_nobody_looks_for_nobody(w: World, monkeypatch):
    feed = Feed(w.services.changes, every=0.01, beat=5.0)
    _, start = w.services.changes.place(None)
    looks = []
    read = w.services.changes.read
    monkeypatch.setattr(w.services.changes, "read", lambda *a: looks.append(a) or read(*a))
    streams = [feed.listen(start.until) for _ in range(50)]
    waiting = [asyncio.ensure_future(anext(each)) for each in streams]
    await asyncio.sleep(0.05)
    await asyncio.to_thread(w.workspace)
    batches = await asyncio.gather(*waiting)
    assert all(batch.changes for batch in batches)
    assert len(looks) < 50
    for each in streams:
        await each.aclose()
    await asyncio.sleep(0.05)
    seen = len(looks)
    await asyncio.sleep(0.05)
    assert len(looks) == seen


async def test_one_who_reads_of_long_ago_holds_up_nobody(w: World, monkeypatch):
    _, start = w.services.changes.place(None)
    for _ in range(4):
        w.workspace()
    read = w.services.changes.read
    monkeypatch.setattr(w.services.changes, "read", lambda after, limit=1: read(after, limit))
    feed = Feed(w.services.changes, every=60.0, beat=5.0)  # the look itself never comes again
    stream = feed.listen(start.until)
    seen = [await asyncio.wait_for(anext(stream), 20) for _ in range(4)]
    assert [batch.until for batch in seen] == [start.until + n for n in (1, 2, 3, 4)]
    await stream.aclose()


def test_a_server_that_stops_ends_its_streams(w: World):
    app = create_app(w.services)
    server = Server(
        uvicorn.Config(app, port=0, lifespan="off", ws="none", log_level="error"), app.state.feed
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    with (
        httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=w.http.headers) as client,
        listening(client, path(w)) as stream,
    ):
        server.should_exit = True
        with pytest.raises(EOFError):
            stream.end()
        thread.join(timeout=20)
    assert not thread.is_alive()
