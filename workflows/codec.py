"""What Temporal gets to see: sealed payloads, failures without words, headers sealed too.

Each payload is an envelope under the payload key of the tenant whose workflow it belongs to. The
key id stands in the payload's metadata, so that whoever decodes needs nothing else. The envelope
binds key, purpose and tenant, and not the workflow: the SDK encodes a client's headers without any
context and decodes them with one, and a schedule's arguments under the schedule's prefix; a bound
workflow id would refuse what is genuine. Two payloads of one tenant can therefore be exchanged by
one who writes to Temporal's database.

Nothing is decoded that was not sealed, but one word of the server: a payload in clear was put there
by somebody else.

While the key agent is sealed a workflow task fails, which the server repeats for ever. An activity
cannot fail without burning an attempt, so there the codec waits first; and a worker polls only
between `wait_until_unsealed` and `wait_until_sealed`.
"""

import asyncio
import binascii
from collections.abc import Callable, Sequence
from datetime import timedelta
from time import monotonic
from typing import NoReturn, Self, TypedDict
from uuid import UUID

from google.protobuf.message import DecodeError
from temporalio.api.common.v1 import Payload
from temporalio.api.failure.v1 import Failure
from temporalio.common import HeaderCodecBehavior
from temporalio.contrib.pydantic import PydanticPayloadConverter
from temporalio.converter import (
    ActivitySerializationContext,
    DataConverter,
    DefaultFailureConverterWithEncodedAttributes,
    PayloadCodec,
    PayloadConverter,
    SerializationContext,
    WithSerializationContext,
    WorkflowSerializationContext,
)
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    ChildWorkflowError,
    FailureError,
)

from controlplane.domain.errors import Integrity, NotFound, Unavailable
from controlplane.keys import envelope
from controlplane.keys.keyring import Keyring
from controlplane.keys.port import SYSTEM_OWNER, KeyAgent, KeyId, OpenKey, Purpose

ENCODING = b"binary/fedctl-sealed"
KEY_FIELD = "fedctl-key"

TenantOf = Callable[[str], str | None]
"""The tenant of a workflow id; None, or `NotFound`, for work that belongs to no tenant."""

_ENCODING_FIELD = "encoding"
_BOUND = b"temporal payload 1"
_REMEMBERED = 4096
_CODEC_MESSAGES = (
    "Failed decoding arguments",
    "Failed decoding heartbeat details",
    "Failed building exception result",
)

_NEVER_STARTED = Payload(metadata={"encoding": b"json/plain"}, data=b'"ACTIVITY_ID_NOT_STARTED"')
"""The one payload that Temporal's server writes itself: why an activity between two attempts ended
when it was told to stop. A constant: accepting it in clear tells and allows nothing; refused
it would stop the story for good."""


class ClientOptions(TypedDict):
    """Keyword arguments that every `Client.connect` and `Replayer` of ours is given."""

    data_converter: DataConverter
    header_codec_behavior: HeaderCodecBehavior


def client_options(codec: "SealedPayloads") -> ClientOptions:
    return ClientOptions(
        data_converter=DataConverter(
            payload_converter_class=PydanticPayloadConverter,
            payload_codec=codec,
            failure_converter_class=BriefFailures,
        ),
        header_codec_behavior=HeaderCodecBehavior.CODEC,
    )


class BriefFailures(DefaultFailureConverterWithEncodedAttributes):
    """Failures without traces and causes, which the worker's log has.

    Between two tries Temporal keeps 4 KiB of a failure, and nothing of what is longer: a step that
    then timed out could not say why.
    """

    def to_failure(
        self, exception: BaseException, payload_converter: PayloadConverter, failure: Failure
    ) -> None:
        super().to_failure(_brief(exception), payload_converter, failure)


def _brief(error: BaseException) -> BaseException:
    if isinstance(error, ApplicationError) and error.failure is None:
        return ApplicationError(
            error.message,
            *error.details,
            type=error.type,
            non_retryable=error.non_retryable,
            next_retry_delay=error.next_retry_delay,
            category=error.category,
        )
    if isinstance(error, FailureError):
        return error
    return ApplicationError(str(error), type=type(error).__name__)


class SealedPayloads(PayloadCodec, WithSerializationContext):
    """Seals and opens payloads with the keyring of this process.

    `task_patience` is how long a call waits for a sealed or absent key agent before it raises
    `Unavailable`; shorter than a workflow task's ten seconds. `activity_patience` is the same for
    the payloads of activities.
    """

    def __init__(
        self,
        keyring: Keyring,
        tenant_of: TenantOf,
        *,
        task_patience: timedelta = timedelta(seconds=5),
        activity_patience: timedelta = timedelta(seconds=60),
        pause: timedelta = timedelta(milliseconds=250),
    ) -> None:
        self._keyring = keyring
        self._tenant_of = tenant_of
        self._task_patience = task_patience
        self._activity_patience = activity_patience
        self._pause = pause.total_seconds()
        self._patience = task_patience.total_seconds()
        self._workflow: str | None = None
        self._owners: dict[str, str] = {}

    def with_context(self, context: SerializationContext) -> Self:
        """The same codec for the payloads of one workflow."""
        if not isinstance(context, WorkflowSerializationContext | ActivitySerializationContext):
            return self
        bound = type(self)(
            self._keyring,
            self._tenant_of,
            task_patience=self._task_patience,
            activity_patience=self._activity_patience,
            pause=timedelta(seconds=self._pause),
        )
        if isinstance(context, ActivitySerializationContext):
            bound._patience = self._activity_patience.total_seconds()  # noqa: SLF001  # its own class
        bound._workflow = context.workflow_id  # noqa: SLF001  # its own class
        bound._owners = self._owners  # noqa: SLF001  # its own class
        return bound

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        key = await self._current()
        return [_sealed(key, payload) for payload in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [await self._decoded(payload) for payload in payloads]

    async def _decoded(self, payload: Payload) -> Payload:
        if payload == _NEVER_STARTED:
            return payload
        return _opened(await self._key(_key_id(payload)), payload)

    async def _current(self) -> OpenKey:
        workflow = self._workflow
        owner = self._owners.get(workflow) if workflow else SYSTEM_OWNER
        if owner is not None:
            held = self._keyring.held_current(Purpose.PAYLOAD, owner)
            if held is not None:
                return held
        return await self._asked(self._find_current)

    async def _key(self, key: KeyId) -> OpenKey:
        return self._keyring.held(key) or await self._asked(lambda: self._keyring.by_id(key))

    def _find_current(self) -> OpenKey:
        return self._keyring.current(Purpose.PAYLOAD, self._owner())

    def _owner(self) -> str:
        workflow = self._workflow
        if not workflow:
            return SYSTEM_OWNER
        known = self._owners.get(workflow)
        if known is not None:
            return known
        try:
            tenant = self._tenant_of(workflow)
        except NotFound:
            tenant = None
        if tenant is None:
            return SYSTEM_OWNER  # not remembered: the workflow's row may be written later
        if len(self._owners) >= _REMEMBERED:
            self._owners.clear()
        self._owners[workflow] = tenant
        return tenant

    async def _asked(self, ask: Callable[[], OpenKey]) -> OpenKey:
        """What `ask` gives, in a thread; asked again while keys are out of reach."""
        until = monotonic() + self._patience
        while True:
            try:
                return await asyncio.to_thread(ask)
            except Unavailable:
                if monotonic() + self._pause > until:
                    raise
            await asyncio.sleep(self._pause)


async def is_sealed(agent: KeyAgent) -> bool:
    """Whether nothing can be opened now: the agent is sealed, or does not answer."""
    try:
        status = await asyncio.to_thread(agent.status)
    except Unavailable:
        return True
    return status.sealed


async def wait_until_unsealed(agent: KeyAgent, *, pause: timedelta = timedelta(seconds=1)) -> None:
    """Return when keys can be opened: the moment to begin polling."""
    while await is_sealed(agent):  # noqa: ASYNC110  # another process, which sets no event of ours
        await asyncio.sleep(pause.total_seconds())


async def wait_until_sealed(
    agent: KeyAgent,
    *,
    grace: timedelta = timedelta(seconds=10),
    pause: timedelta = timedelta(seconds=1),
) -> None:
    """Return when keys were out of reach for `grace`: the moment to stop polling.

    An agent that is started anew within `grace` goes unnoticed. Opened keys live on in memory for
    a while, so that what runs can still end and be reported.
    """
    since: float | None = None
    while True:
        if not await is_sealed(agent):
            since = None
        elif since is None:
            since = monotonic()
        if since is not None and monotonic() - since >= grace.total_seconds():
            return
        await asyncio.sleep(pause.total_seconds())


def is_codec_failure(error: BaseException) -> bool:
    """Whether an activity or child failed because its payloads could not be sealed or opened.

    Such a failure says nothing about the world: a story stops on it and never unwinds.
    """
    found: BaseException | None = error
    while isinstance(found, ActivityError | ChildWorkflowError):
        found = found.cause
    return isinstance(found, ApplicationError) and found.message.startswith(_CODEC_MESSAGES)


def _sealed(key: OpenKey, payload: Payload) -> Payload:
    return Payload(
        metadata={_ENCODING_FIELD: ENCODING, KEY_FIELD: key.name.id.hex.encode()},
        data=envelope.seal(key, payload.SerializeToString(), bound=_BOUND),
    )


def _opened(key: OpenKey, payload: Payload) -> Payload:
    if key.name.purpose is not Purpose.PAYLOAD:
        raise Integrity(f"a payload names key {key.name.id}, which is no payload key: stop here")
    plain = envelope.open_sealed(key, payload.data, bound=_BOUND)
    try:
        return Payload.FromString(plain)
    except DecodeError:
        raise Integrity("a sealed payload holds no payload: stop here") from None


def _key_id(payload: Payload) -> KeyId:
    if payload.metadata.get(_ENCODING_FIELD) != ENCODING:
        _foreign("is not sealed")
    try:
        named = KeyId(UUID(hex=payload.metadata.get(KEY_FIELD, b"").decode("ascii")))
    except (ValueError, binascii.Error):
        _foreign("names no key")
    if named != envelope.key_id(payload.data):
        _foreign("names another key than it is sealed under")
    return named


def _foreign(what: str) -> NoReturn:
    raise Integrity(
        f"a payload in Temporal's history {what}: it was not written by fedctl; stop and look who"
        " else writes to this Temporal namespace"
    )
