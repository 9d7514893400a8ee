"""Temporal keeps nothing of ours in clear, and a sealed key agent unwinds nothing.

The tests at the bottom run on the real server with its database in a file: a few seconds.
"""

import asyncio
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from time import monotonic
from uuid import UUID, uuid4

import pytest
from temporalio import activity, workflow
from temporalio.api.common.v1 import Payload
from temporalio.api.failure.v1 import Failure
from temporalio.client import (
    Client,
    Interceptor,
    OutboundInterceptor,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowQueryFailedError,
)
from temporalio.common import RetryPolicy
from temporalio.contrib.pydantic import PydanticPayloadConverter
from temporalio.converter import (
    ActivitySerializationContext,
    DefaultPayloadConverter,
    NexusSerializationContext,
    WorkflowSerializationContext,
)
from temporalio.exceptions import ActivityError, ApplicationError, ChildWorkflowError
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner, Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from controlplane.domain.errors import Integrity, NotFound, Unavailable
from controlplane.keys import envelope
from controlplane.keys.keyring import Keyring
from controlplane.keys.memory import MemoryKeys
from controlplane.keys.port import SEALED, SYSTEM_OWNER, Purpose
from controlplane.keys.root import LocalAgent, RootKey
from tests.children import child
from workflows.codec import (
    ENCODING,
    KEY_FIELD,
    BriefFailures,
    SealedPayloads,
    client_options,
    is_codec_failure,
    is_sealed,
    wait_until_sealed,
    wait_until_unsealed,
)
from workflows.failures import translated

MOMENT = timedelta(milliseconds=10)
ROOT = RootKey(root=UUID(int=7), material=bytes(range(32)))
PLAIN = Payload(metadata={"encoding": b"json/plain"}, data=b'"hidden"')
QUEUE = "q.4f1d"


def tenant_of(workflow_id):
    """The tenant stands before the dash; ids of the real system go through the store."""
    tenant, dash, _ = workflow_id.partition("-")
    if tenant == "lost":
        raise NotFound("no operation of that id")
    return tenant if dash else None


class Agent(LocalAgent):
    """Counts who was turned away while it was sealed."""

    refused = 0

    def unwrap(self, name, wrapped):
        self.refused += self.status().sealed
        return super().unwrap(name, wrapped)

    async def was_refused(self):
        return self.refused > 0


class Keys:
    """A keyring whose agent a test can seal; with `ttl` zero nothing is remembered."""

    def __init__(self, ttl=timedelta(minutes=5)):
        self.agent = Agent(ROOT)
        self.rows = MemoryKeys()
        self.ring = Keyring(agent=self.agent, rows=self.rows, ttl=ttl)

    def codec(self, *, task=timedelta(0), activity=timedelta(0)):
        return SealedPayloads(
            self.ring, tenant_of, task_patience=task, activity_patience=activity, pause=MOMENT
        )


def of_workflow(workflow_id):
    return WorkflowSerializationContext(namespace="default", workflow_id=workflow_id)


def of_activity(workflow_id):
    return ActivitySerializationContext(
        namespace="default",
        activity_id="1",
        activity_type="a",
        activity_task_queue=QUEUE,
        workflow_id=workflow_id,
        workflow_type="w",
        is_local=False,
    )


def owner_of(keys, payload):
    return keys.ring.by_id(envelope.key_id(payload.data)).name.owner


async def test_a_payload_comes_back_and_shows_a_key_id_only():
    keys = Keys()
    codec = keys.codec().with_context(of_workflow("acme-1"))
    [sealed] = await codec.encode([PLAIN])
    assert sealed.metadata["encoding"] == ENCODING
    assert sealed.metadata[KEY_FIELD] == envelope.key_id(sealed.data).hex.encode()
    assert set(sealed.metadata) == {"encoding", KEY_FIELD}
    assert b"hidden" not in sealed.SerializeToString()
    assert b"acme" not in sealed.SerializeToString()
    assert await codec.decode([sealed]) == [PLAIN]


@pytest.mark.parametrize(
    ("context", "owner"),
    [
        (of_workflow("acme-1"), "acme"),
        (of_activity("globex-1"), "globex"),
        (of_workflow("sweep"), SYSTEM_OWNER),
        (of_workflow("lost-1"), SYSTEM_OWNER),
        (of_activity(None), SYSTEM_OWNER),
        (NexusSerializationContext(endpoint="e", service="s", operation="o"), SYSTEM_OWNER),
    ],
)
async def test_each_tenant_has_a_key_of_its_own_and_the_rest_the_systems(context, owner):
    keys = Keys()
    [sealed] = await keys.codec().with_context(context).encode([PLAIN])
    assert owner_of(keys, sealed) == owner


async def test_a_workflow_whose_row_is_written_later_finds_its_tenant_then():
    known: dict[str, str] = {}
    keys = Keys()
    codec = SealedPayloads(keys.ring, known.get).with_context(of_workflow("w"))
    [before] = await codec.encode([PLAIN])
    known["w"] = "acme"
    [after] = await codec.encode([PLAIN])
    assert (owner_of(keys, before), owner_of(keys, after)) == (SYSTEM_OWNER, "acme")
    assert await codec.decode([before, after]) == [PLAIN, PLAIN]


async def test_what_is_sealed_under_one_context_opens_under_any():
    keys = Keys()
    contexts = [of_workflow("acme-1"), of_workflow("globex-1"), of_activity("acme-1")]
    codecs = [keys.codec(), *(keys.codec().with_context(context) for context in contexts)]
    for one in codecs:
        for other in codecs:
            assert await other.decode(await one.encode([PLAIN])) == [PLAIN]


async def test_history_opens_after_a_rotation():
    keys = Keys()
    codec = keys.codec().with_context(of_workflow("acme-1"))
    [before] = await codec.encode([PLAIN])
    keys.ring.rotate(Purpose.PAYLOAD, "acme")
    [after] = await codec.encode([PLAIN])
    assert before.metadata[KEY_FIELD] != after.metadata[KEY_FIELD]
    assert await Keys.codec(keys).decode([before, after]) == [PLAIN, PLAIN]


async def test_what_we_did_not_seal_is_refused():
    keys = Keys()
    codec = keys.codec().with_context(of_workflow("acme-1"))
    [good] = await codec.encode([PLAIN])
    strange = Payload(data=keys.ring.seal(Purpose.CREDENTIALS, "acme", b"x"))
    strange.metadata["encoding"] = ENCODING
    strange.metadata[KEY_FIELD] = envelope.key_id(strange.data).hex.encode()
    bad = [PLAIN, Payload(), strange]
    for field, value in ((KEY_FIELD, b"nonsense"), (KEY_FIELD, uuid4().hex.encode())):
        changed = Payload()
        changed.CopyFrom(good)
        changed.metadata[field] = value
        bad.append(changed)
    shorter = Payload()
    shorter.CopyFrom(good)
    shorter.data = good.data[:-1]
    for payload in (*bad, shorter):
        with pytest.raises(Integrity):
            await codec.decode([payload])


async def test_the_word_of_temporals_own_server_is_taken_and_no_other():
    codec = Keys().codec()
    own = Payload(metadata={"encoding": b"json/plain"}, data=b'"ACTIVITY_ID_NOT_STARTED"')
    assert await codec.decode([own]) == [own]
    for data in (b'"ACTIVITY_ID_UNKNOWN"', b'"ACTIVITY_ID_NOT_STARTED" '):
        with pytest.raises(Integrity):
            await codec.decode([Payload(metadata={"encoding": b"json/plain"}, data=data)])


async def test_a_sealed_envelope_without_a_payload_in_it_is_refused():
    keys = Keys()
    sealed = keys.ring.seal(Purpose.PAYLOAD, "acme", b"\xff\xff", bound=b"temporal payload 1")
    payload = Payload(data=sealed)
    payload.metadata["encoding"] = ENCODING
    payload.metadata[KEY_FIELD] = envelope.key_id(sealed).hex.encode()
    with pytest.raises(Integrity, match="holds no payload"):
        await keys.codec().decode([payload])


async def test_while_sealed_a_task_is_refused_and_held_keys_still_serve():
    keys = Keys()
    codec = keys.codec().with_context(of_workflow("acme-1"))
    sealed = await codec.encode([PLAIN])
    keys.agent.seal()
    assert await codec.decode(await codec.encode([PLAIN])) == [PLAIN]
    keys.ring.forget()
    for call in (lambda: codec.encode([PLAIN]), lambda: codec.decode(sealed)):
        with pytest.raises(Unavailable) as caught:
            await call()
        assert caught.value.reason == SEALED


async def test_an_activitys_payload_waits_for_the_agent():
    keys = Keys(ttl=timedelta(0))
    codec = keys.codec(activity=timedelta(seconds=20)).with_context(of_activity("acme-1"))
    sealed = await codec.encode([PLAIN])
    keys.agent.seal()
    waiting = asyncio.create_task(codec.decode(sealed))
    done, _ = await asyncio.wait([waiting], timeout=0.1)
    assert not done
    keys.agent.unseal(ROOT)
    assert await waiting == [PLAIN]


async def test_a_worker_polls_between_unsealed_and_sealed():
    agent = LocalAgent()
    assert await is_sealed(agent)
    opening = asyncio.create_task(wait_until_unsealed(agent, pause=MOMENT))
    done, _ = await asyncio.wait([opening], timeout=0.05)
    assert not done
    agent.unseal(ROOT)
    await asyncio.wait_for(opening, 10)
    closing = asyncio.create_task(
        wait_until_sealed(agent, grace=timedelta(milliseconds=30), pause=MOMENT)
    )
    done, _ = await asyncio.wait([closing], timeout=0.1)
    assert not done
    agent.seal()
    await asyncio.wait_for(closing, 10)


class Gone(LocalAgent):
    def status(self):
        raise Unavailable("nobody answers")


async def test_an_agent_that_does_not_answer_counts_as_sealed():
    assert await is_sealed(Gone())
    await asyncio.wait_for(wait_until_sealed(Gone(), grace=timedelta(0)), 10)


async def test_a_restart_within_the_grace_goes_unnoticed():
    agent = LocalAgent(ROOT)
    watching = asyncio.create_task(
        wait_until_sealed(agent, grace=timedelta(seconds=30), pause=MOMENT)
    )
    agent.seal()
    await asyncio.wait([watching], timeout=0.05)
    agent.unseal(ROOT)
    done, _ = await asyncio.wait([watching], timeout=0.05)
    assert not done
    watching.cancel()


def test_a_failure_says_what_it_is_in_less_than_is_kept_between_two_tries():
    def deep(calls: int) -> None:
        if not calls:
            raise OSError("connection refused " * 40)
        try:
            deep(calls - 1)
        except OSError as e:
            if calls % 5:
                raise
            raise OSError(f"call {calls} broke off") from e

    @translated("export 0")
    def fails() -> None:
        try:
            deep(30)
        except OSError as e:
            raise Unavailable("site south: no answer", detail="x" * 300, reason="gone") from e

    with pytest.raises(ApplicationError) as caught:
        fails()
    converter, payloads, kept = BriefFailures(), PydanticPayloadConverter(), Failure()
    converter.to_failure(caught.value, payloads, kept)
    assert len(kept.SerializeToString()) < 1024
    told = converter.from_failure(kept, payloads)
    assert isinstance(told, ApplicationError)
    assert (told.message, told.type) == ("site south: no answer", "unavailable")
    assert told.details[0] == {"detail": "x" * 300, "reason": "gone", "step": "export 0"}
    assert told.__cause__ is None


def test_only_the_codecs_own_failures_are_told_apart():
    for message in ("Failed decoding arguments", "Failed building exception result: sealed"):
        assert is_codec_failure(in_activity(ApplicationError(message)))
    assert not is_codec_failure(in_activity(ApplicationError("no room", type="exhausted")))
    assert not is_codec_failure(ValueError("Failed decoding arguments"))


def in_activity(cause):
    error = ActivityError(
        "activity failed",
        scheduled_event_id=1,
        started_event_id=2,
        identity="i",
        activity_type="a",
        activity_id="1",
        retry_state=None,
    )
    error.__cause__ = cause
    return error


# On the real server


class Secrets:
    """Texts that occur nowhere else; each goes another way into Temporal."""

    def __init__(self, mark):
        self.ways: list[str] = []
        self._mark = mark

    def __getitem__(self, way):
        text = f"{self._mark}-{way}-71c3"
        if text not in self.ways:
            self.ways.append(text)
        return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    secret: str
    id: UUID
    mark: str
    last: bool = False


@activity.defn
def work(order: Order) -> str:
    activity.heartbeat(f"{order.mark}-heartbeat-71c3")
    if order.last:
        try:
            raise KeyError(f"{order.mark}-cause-71c3")
        except KeyError as e:
            raise ApplicationError(
                f"{order.mark}-failure-71c3", f"{order.mark}-detail-71c3", type="exhausted"
            ) from e
    if activity.info().attempt == 1:
        raise ApplicationError(f"{order.mark}-first-71c3")
    assert activity.info().heartbeat_details == [f"{order.mark}-heartbeat-71c3"]
    return f"{order.mark}-activity-result-71c3"


FAST = RetryPolicy(initial_interval=timedelta(milliseconds=10), maximum_attempts=2)
ONCE = RetryPolicy(maximum_attempts=1)
# a task that failed twice is given again only after its timeout, ten seconds by default
QUICK = {"task_queue": QUEUE, "task_timeout": timedelta(seconds=1)}


@workflow.defn
class Child:
    @workflow.run
    async def run(self, order: Order) -> str:
        if order.last:
            raise ApplicationError(f"{order.mark}-child-failure-71c3")
        return f"{order.mark}-child-result-71c3"


@workflow.defn
class Story:
    def __init__(self) -> None:
        self._signals: list[str] = []
        self._order: Order | None = None

    @workflow.run
    async def run(self, order: Order) -> str:
        self._order = order
        await workflow.wait_condition(lambda: len(self._signals) > 0)
        done = await workflow.execute_activity(
            work, order, start_to_close_timeout=timedelta(seconds=20), retry_policy=FAST
        )
        assert done == f"{order.mark}-activity-result-71c3"
        last = Order(secret=order.secret, id=order.id, mark=order.mark, last=True)
        own = workflow.info().workflow_id
        child = await workflow.execute_child_workflow(Child.run, order, id=f"{own}-child")
        assert child == f"{order.mark}-child-result-71c3"
        with pytest.raises(ChildWorkflowError) as caught:
            await workflow.execute_child_workflow(Child.run, last, id=f"{own}-bad")
        assert isinstance(caught.value.cause, ApplicationError)
        assert caught.value.cause.message == f"{order.mark}-child-failure-71c3"
        await workflow.execute_activity(
            work, last, start_to_close_timeout=timedelta(seconds=20), retry_policy=ONCE
        )
        return "never"

    @workflow.signal
    def nudge(self, text: str) -> None:
        self._signals.append(text)

    @workflow.query
    def tell(self, text: str) -> str:
        if self._order is None or text.endswith("bad"):
            raise ApplicationError(f"query of {text}")
        return f"{text}/{self._order.id}"

    @workflow.update
    def change(self, text: str) -> str:
        return f"{text}-updated"


@activity.defn
def slow(text: str) -> str:
    started.set()
    assert go_on.wait(30)
    return text


started, go_on = threading.Event(), threading.Event()


@workflow.defn
class Simple:
    @workflow.run
    async def run(self, text: str) -> str:
        return await workflow.execute_activity(
            slow, text, start_to_close_timeout=timedelta(seconds=30), retry_policy=ONCE
        )


class Headers(Interceptor):
    def __init__(self, text):
        super().__init__()
        self._text = text

    def intercept_client(self, next):
        return HeadersOut(super().intercept_client(next), self._text)


class HeadersOut(OutboundInterceptor):
    def __init__(self, next, text):
        super().__init__(next)
        [self._payload] = DefaultPayloadConverter().to_payloads([text])

    async def start_workflow(self, input):
        input.headers = {**input.headers, "trace": self._payload}
        return await super().start_workflow(input)

    async def signal_workflow(self, input):
        input.headers = {**input.headers, "trace": self._payload}
        return await super().signal_workflow(input)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    address: str
    file: Path

    def stored(self):
        beside = self.file.parent.glob(self.file.name + "*")
        return b"".join(path.read_bytes() for path in beside)


async def connected(address, **more):
    deadline = monotonic() + 30
    while True:
        try:
            return await Client.connect(address, **more)
        except RuntimeError:
            assert monotonic() < deadline
            await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    file = tmp_path_factory.mktemp("temporal") / "t.db"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    binary = str(Path(sys.executable).with_name("temporal"))
    command = [binary, "server", "start-dev", "--headless", "--ip", "127.0.0.1", "--port", port]
    with child(
        [*command, "--db-filename", str(file), "--log-level", "error"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as running:
        yield Server(address=f"127.0.0.1:{port}", file=file)
        running.terminate()
        running.wait(timeout=20)


@asynccontextmanager
async def working(client, *, sandbox=True):
    passed = SandboxRestrictions.default.with_passthrough_modules("tests", "pytest", "pydantic")
    with ThreadPoolExecutor(4) as threads:
        async with Worker(
            client,
            task_queue=QUEUE,
            workflows=[Story, Child, Simple],
            activities=[work, slow],
            activity_executor=threads,
            workflow_runner=SandboxedWorkflowRunner(restrictions=passed)
            if sandbox
            else UnsandboxedWorkflowRunner(),
        ):
            yield


async def full_story(client, workflow_id, mark):
    """Every way a text can go into Temporal; returns the texts that went."""
    secrets = Secrets(mark)
    order = Order(secret=secrets["argument"], id=uuid4(), mark=mark)
    async with working(client):
        handle = await client.start_workflow(
            Story.run,
            order,
            id=workflow_id,
            task_queue=QUEUE,
            memo={"memo": secrets["memo"]},
            static_summary=secrets["summary"],
        )
        assert (await handle.query(Story.tell, secrets["query"])).endswith(str(order.id))
        with pytest.raises(WorkflowQueryFailedError):
            await handle.query(Story.tell, secrets["query"] + "bad")
        updated = await handle.execute_update(Story.change, secrets["update"])
        assert updated == secrets["update"] + "-updated"
        assert await (await handle.describe()).memo_value("memo") == secrets["memo"]
        await handle.signal(Story.nudge, secrets["signal"])
        with pytest.raises(WorkflowFailureError) as caught:
            await handle.result()
    failed = caught.value.cause
    assert isinstance(failed, ActivityError)
    assert isinstance(failed.cause, ApplicationError)
    assert failed.cause.message == secrets["failure"]
    assert failed.cause.type == "exhausted"
    assert list(failed.cause.details) == [secrets["detail"]]
    # Our failures leave it to the worker's log.
    assert failed.cause.cause is None or secrets["cause"] in str(failed.cause.cause)
    for way in ("activity-result", "heartbeat", "first", "child-result", "child-failure"):
        secrets[way]
    return secrets.ways


async def histories(client, workflow_id):
    ids = [workflow_id, f"{workflow_id}-child", f"{workflow_id}-bad"]
    return [await client.get_workflow_handle(one).fetch_history() for one in ids]


def raw(found):
    return b"".join(event.SerializeToString() for one in found for event in one.events)


async def test_without_the_codec_every_text_is_found_in_clear(server):
    """Shows that the next test looks in the right places."""
    from temporalio.contrib.pydantic import pydantic_data_converter

    client = await connected(
        server.address,
        data_converter=pydantic_data_converter,
        interceptors=[Headers("plain-header-71c3")],
    )
    ways = await full_story(client, "open-1", "plain")
    kept = raw(await histories(client, "open-1"))
    assert b"test_codec.py" in kept
    never_in_history = {"plain-query-71c3", "plain-memo-71c3"}
    for text in {*ways, "plain-header-71c3"} - never_in_history - {"plain-heartbeat-71c3"}:
        assert text.encode() in kept, text
    stored = server.stored()
    for text in ("plain-argument-71c3", "plain-memo-71c3", "plain-header-71c3", "plain-first-71c3"):
        assert text.encode() in stored, text


async def test_with_the_codec_no_text_is_found_and_the_history_replays(server):
    keys = Keys()
    options = client_options(keys.codec())
    client = await connected(
        server.address,
        **options,
        interceptors=[Headers("cipher-header-71c3")],
        identity="worker-1",
    )
    ways = await full_story(client, "acme-1", "cipher")
    found = await histories(client, "acme-1")
    places = {"history": raw(found), "database": server.stored()}
    assert b"acme-1" in places["history"]
    assert b"acme-1" in places["database"]
    for place, kept in places.items():
        for text in (*ways, "cipher-header-71c3", "cipher"):
            assert text.encode() not in kept, f"{text} in {place}"
    # the database also keeps the traces of the test before; a history is this one's alone
    assert b"test_codec.py" not in places["history"]
    owners = {row.name.owner for row in keys.rows._rows.values()}
    assert owners == {"acme", SYSTEM_OWNER}
    replayer = Replayer(
        workflows=[Story, Child], **options, workflow_runner=UnsandboxedWorkflowRunner()
    )
    for one in found:
        await replayer.replay_workflow(one)


async def until(found, what):
    deadline = monotonic() + 30
    while not await found():
        assert monotonic() < deadline, what
        await asyncio.sleep(0.05)


async def test_a_workflow_waits_while_sealed_and_goes_on_afterwards(server):
    keys = Keys(ttl=timedelta(0))
    client = await connected(server.address, **client_options(keys.codec()))
    handle = await client.start_workflow(Simple.run, "text", id="acme-2", **QUICK)
    keys.agent.seal()
    go_on.set()

    async def task_failed():
        history = await handle.fetch_history()
        return any(e.HasField("workflow_task_failed_event_attributes") for e in history.events)

    async with working(client, sandbox=False):
        await until(task_failed, "no workflow task failed while sealed")
        assert (await handle.describe()).status is WorkflowExecutionStatus.RUNNING
        keys.agent.unseal(ROOT)
        assert await handle.result() == "text"


async def test_an_activity_that_ends_while_sealed_is_reported_in_its_first_attempt(server):
    keys = Keys(ttl=timedelta(0))
    codec = keys.codec(activity=timedelta(seconds=20))
    client = await connected(server.address, **client_options(codec))
    started.clear()
    go_on.clear()
    async with working(client, sandbox=False):
        handle = await client.start_workflow(Simple.run, "text", id="acme-3", **QUICK)
        await until(lambda: asyncio.to_thread(started.wait, 0.05), "the activity did not start")
        keys.agent.seal()
        go_on.set()
        await until(keys.agent.was_refused, "nothing was asked of the sealed agent")
        keys.agent.unseal(ROOT)
        assert await handle.result() == "text"


async def test_a_codec_failure_of_an_activity_is_known_by_its_story(server):
    keys = Keys(ttl=timedelta(0))
    client = await connected(server.address, **client_options(keys.codec()))
    started.clear()
    go_on.clear()
    async with working(client, sandbox=False):
        handle = await client.start_workflow(Simple.run, "text", id="acme-4", **QUICK)
        await until(lambda: asyncio.to_thread(started.wait, 0.05), "the activity did not start")
        keys.agent.seal()
        go_on.set()

        async def activity_failed():
            history = await handle.fetch_history()
            return any(e.HasField("activity_task_failed_event_attributes") for e in history.events)

        await until(activity_failed, "the activity did not fail")
        keys.agent.unseal(ROOT)
        with pytest.raises(WorkflowFailureError) as caught:
            await handle.result()
    assert is_codec_failure(caught.value.cause)
    kept = raw([await handle.fetch_history()])
    assert b"the key agent of this machine is sealed" in kept
    assert b'"text"' not in kept
