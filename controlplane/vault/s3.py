"""An object store in a bucket of S3 or of anything that speaks it as well."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import ceil
from queue import Full, Queue
from time import monotonic
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from controlplane.domain.disk import MIB
from controlplane.domain.errors import Conflict, FedctlError, NotFound, Unavailable, Unsupported
from controlplane.vault.names import checked
from controlplane.vault.s3errors import repeated, status, told
from controlplane.vault.s3uploads import Leftovers

if TYPE_CHECKING:
    from obstore.store import RetryConfig

PART = 5 * MIB  # the least that S3 takes
_PARTS_AT_ONCE = 3
_LISTED = 1000
_TRIES = 3
_LOOK = 0.1
_ABORTING = 10.0
_BEYOND = 416
_KEY_AGE = timedelta(minutes=5)
_WHOLE = timedelta(hours=1)  # a pack through the slowest of lines
PROBE = "probe/if-none-match"
_PROBE = b"a name that can be taken once shows that this store keeps to If-None-Match\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Key:
    """What signs requests; `token` goes with keys that were lent for a time."""

    id: str
    secret: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Place:
    """Where a bucket is. `key` is asked for anew every five minutes, so that keys may change.

    Without an `endpoint` it is Amazon's in `region`. `authority` is the certificate (PEM) that a
    private endpoint's is checked against. A request that hears nothing for `timeout`, while a part
    is sent or while an answer comes, is given up; what failed is tried again with growing pauses
    until `patience` is over.
    """

    bucket: str
    key: Callable[[], S3Key] = field(repr=False)
    prefix: str = ""
    endpoint: str | None = None
    region: str = "us-east-1"
    plain_http: bool = False
    authority: bytes | None = field(default=None, repr=False)
    timeout: timedelta = timedelta(seconds=60)
    patience: timedelta = timedelta(seconds=60)

    @property
    def url(self) -> str:
        """The server's address."""
        return (self.endpoint or f"https://s3.{self.region}.amazonaws.com").rstrip("/")

    def __str__(self) -> str:
        return f"bucket {self.bucket} at {self.url}"


class S3Objects:
    """Objects under a bucket's prefix; many threads may share it.

    An object that fits one request is created on the condition that its name is free. Before the
    first write of all an object of a reserved name (`PROBE`) is created twice, and where both
    succeed every write is Unsupported. A longer object
    is a multipart upload, which no request makes conditional here: its name is looked up just
    before the end. So of two long uploads of one name that end in the same moment both succeed and
    one stays; what is long are packs, whose names are 256 random bits.
    """

    def __init__(self, place: S3Place) -> None:
        self._place = place
        self._store = _opened(place)
        self._proven = False

    def upload(self, name: str) -> "S3Upload":
        return S3Upload(self, checked(name))

    def put(self, name: str, data: bytes) -> None:
        """As the port says. After an answer that was lost the store is asked what it has."""
        checked(name)
        self._prove(name)
        unknown = False
        for left in reversed(range(_TRIES)):
            try:
                self._create(name, data)
            except Conflict as e:
                # What was asked twice may have been done the first time.
                twice = unknown or repeated(e.__cause__)
                if twice and self._has(name, data):
                    return
                raise
            except Unavailable:
                unknown = True
                if self._has(name, data):
                    return
                if not left:
                    raise
            else:
                return

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        if length == 0:
            self.size(name)
            return b""
        with self.told(name):
            try:
                if length is not None:
                    found = obstore.get_range(
                        self._store, checked(name), start=offset, length=length
                    )
                elif offset:
                    found = obstore.get(
                        self._store, checked(name), options={"range": {"offset": offset}}
                    ).bytes()
                else:
                    found = obstore.get(self._store, checked(name)).bytes()
            except BaseError as e:
                if status(e) == _BEYOND:
                    return b""
                raise
            return found.to_bytes()

    def size(self, name: str) -> int:
        with self.told(name):
            try:
                return obstore.head(self._store, checked(name))["size"]
            except FileNotFoundError:
                # The answer to HEAD does not tell a bucket that is gone from an object that is.
                self._why(name)
                return obstore.head(self._store, name)["size"]
            except PermissionDeniedError:
                self._why(name)  # nor why it is refused
                raise

    def names(self, folder: str) -> Iterator[str]:
        after, failed = None, 0
        while True:
            try:
                for page in self._pages(checked(folder), after):
                    yield from page
                    after, failed = page[-1], 0
            except Unavailable:
                # An answer that was cut is the one thing that the library does not ask for again.
                failed += 1
                if failed == _TRIES:
                    raise
            else:
                return

    def delete(self, name: str) -> None:
        with suppress(NotFound), self.told(name):
            obstore.delete(self._store, checked(name))

    def sweep(self, before: datetime) -> int:
        place = self._place
        with Leftovers(
            url=place.url, bucket=place.bucket, prefix=place.prefix, region=place.region,
            key=place.key(), authority=place.authority, timeout=place.timeout,
        ) as leftovers:  # fmt: skip
            return leftovers.sweep(before)

    def sender(self, name: str) -> "_Sender":
        self._prove(name)
        return _Sender(self._store, name)

    def taken(self, name: str) -> int | None:
        """The length of what has the name, None when it is free."""
        try:
            return self.size(name)
        except NotFound:
            return None

    def named(self, name: str) -> str:
        return f"{name} in {self._place}"

    @contextmanager
    def told(self, name: str) -> Iterator[None]:
        """Translates what goes wrong with the object."""
        try:
            yield
        except (BaseError, FileNotFoundError, ValueError) as e:
            if isinstance(e, UnauthenticatedError):
                self._place.key()  # where the key is missing, that is the news
            raise told(e, self.named(name), self._place.bucket) from e

    def _pages(self, folder: str, after: str | None) -> Iterator[list[str]]:
        with self.told(folder):
            pages = iter(obstore.list(self._store, folder, offset=after, chunk_size=_LISTED))
        while True:
            with self.told(folder):
                page = next(pages, ())
            if not page:
                return
            yield [each["path"] for each in page]

    def _has(self, name: str, data: bytes) -> bool:
        try:
            return self.get(name) == data
        except NotFound:
            return False

    def _create(self, name: str, data: bytes) -> None:
        try:
            with self.told(name):
                obstore.put(self._store, checked(name), data, mode="create", use_multipart=False)
        except Conflict as e:
            if self.taken(name) is None:
                # Somebody else was about to create or delete it in the same moment.
                raise Unavailable(f"{self.named(name)}: {e}, and then it was not") from e
            raise

    def _prove(self, name: str) -> None:
        """What is created twice is refused the second time, or nothing may be written here.

        Before anything of ours is written: a store that ignores the condition would have taken
        another's object away by then. What goes wrong is told of `name`, which is waiting.
        """
        for left in () if self._proven else reversed(range(_TRIES)):
            try:
                self._proven = self._refuses(name) or self._refuses(name)
                break
            except Unavailable:
                if not left:
                    raise
        if not self._proven:
            raise Unsupported(
                f"{self.named(name)}: the store ignores If-None-Match and lets a name be taken"
                " twice, so two control planes could not be told apart in it. Some do so only where"
                " the bucket keeps versions or locks objects (Ceph): use a bucket without, or"
                " another store (docs/stores.md)"
            )

    def _refuses(self, name: str) -> bool:
        """Whether the probe's name is taken, which takes it."""
        try:
            with self.told(name):
                obstore.put(self._store, PROBE, _PROBE, mode="create", use_multipart=False)
        except Conflict:
            return True
        return False

    def _why(self, name: str) -> None:
        """Raises what the answer to HEAD, which has no body, could not tell."""
        obstore.get_range(self._store, name, start=0, length=1)


class S3Upload:
    """An object's bytes in parts. Parts that were sent cost room until `finish` or `abort`."""

    def __init__(self, store: S3Objects, name: str) -> None:
        self._store = store
        self._name = name
        self._pending = bytearray()
        self._length = 0
        self._sender: _Sender | None = None
        self._ended = False

    def write(self, *parts: bytes) -> None:
        self._check()
        for data in parts:
            self._length += len(data)
            self._pending += data
        if len(self._pending) >= PART:
            self._send()

    def finish(self) -> None:
        self._check()
        if self._sender is None:
            self._store.put(self._name, bytes(self._pending))
        else:
            self._complete(self._sender)
        self._ended = True
        self._pending.clear()

    def abort(self) -> None:
        self._ended = True
        self._pending.clear()
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.abort()

    def _check(self) -> None:
        if self._ended:
            raise Conflict(f"the upload of {self._name} has ended")

    def _send(self) -> None:
        if self._sender is None:
            self._sender = self._store.sender(self._name)
        with self._store.told(self._name):
            self._sender.push(bytes(self._pending))
        self._pending.clear()

    def _complete(self, sender: "_Sender") -> None:
        with self._store.told(self._name):
            sender.check()
        if self._store.taken(self._name) is not None:
            self.abort()
            raise Conflict(f"{self._store.named(self._name)} is in the store already")
        try:
            with self._store.told(self._name):
                if self._pending:
                    sender.push(bytes(self._pending))
                sender.end()
        except FedctlError:
            # The end may have come about though its answer was lost; the name was free before.
            if self._store.taken(self._name) != self._length:
                raise
        self._sender = None


class _Aborted(Exception):
    """Makes the library end a multipart upload and remove its parts."""


class _Sender:
    """One multipart upload, fed from another thread; holds at most one part back."""

    def __init__(self, store: S3Store, name: str) -> None:
        self._store = store
        self._name = name
        self._parts: Queue[bytes | None] = Queue(1)
        self._aborted = False
        self._done: Future[None] = Future()
        threading.Thread(target=self._run, name="s3-upload", daemon=True).start()

    def push(self, part: bytes | None) -> None:
        """Waits for its turn; raises what ended the upload."""
        while not self._done.done():
            with suppress(Full):
                self._parts.put(part, timeout=_LOOK)
                return
        self._done.result()

    def check(self) -> None:
        """Raises what ended the upload, if anything did."""
        if self._done.done():
            self._done.result()

    def end(self) -> None:
        self.push(None)
        self._done.result()

    def abort(self) -> None:
        """Nothing of it becomes visible, and the store is told to drop its parts.

        Where it does not answer soon nobody waits: what it never hears of is swept.
        """
        self._aborted = True
        end = monotonic() + _ABORTING
        while not self._done.done() and monotonic() < end:
            with suppress(Full):
                self._parts.put(None, timeout=_LOOK)
                break
        with suppress(BaseError, FileNotFoundError, ValueError, _Aborted, TimeoutError):
            self._done.result(max(0.0, end - monotonic()))

    def _run(self) -> None:
        try:
            obstore.put(
                self._store,
                self._name,
                self._fed(),
                use_multipart=True,
                chunk_size=PART,
                max_concurrency=_PARTS_AT_ONCE,
            )
        except BaseException as e:  # noqa: BLE001  # it is raised where the upload is waited for
            self._done.set_exception(e)
        else:
            self._done.set_result(None)

    def _fed(self) -> Iterator[bytes]:
        while (part := self._parts.get()) is not None:
            if self._aborted:
                raise _Aborted
            yield part
        if self._aborted:
            raise _Aborted


def retries(patience: timedelta) -> "RetryConfig":
    """How what failed is tried again: with growing pauses until `patience` is over.

    The library draws each pause from between the shortest and three times the one before, so that
    any number of tries may be used up in no time: there are as many as the shortest ones take.
    """
    shortest = min(timedelta(milliseconds=100), patience / 50)
    return {
        "max_retries": ceil(patience / shortest),
        "retry_timeout": patience,
        "backoff": {
            "init_backoff": shortest,
            "max_backoff": min(timedelta(seconds=10), patience / 6),
            "base": 3,
        },
    }


def _opened(place: S3Place) -> S3Store:
    def key() -> dict[str, object]:
        now = place.key()
        return {
            "access_key_id": now.id,
            "secret_access_key": now.secret,
            "token": now.token,
            "expires_at": datetime.now(UTC) + _KEY_AGE,
        }

    options: dict[str, object] = {
        "allow_http": place.plain_http,
        "connect_timeout": min(place.timeout, timedelta(seconds=5)),
        "read_timeout": place.timeout,
        "timeout": _WHOLE,
        "pool_idle_timeout": timedelta(seconds=15),
    }
    if place.authority is not None:
        options["root_certificate"] = place.authority
    return S3Store(
        place.bucket,
        prefix=place.prefix or None,
        config={
            "endpoint": place.url,
            "region": place.region,
            "checksum_algorithm": "SHA256",
            "conditional_put": "etag",
            "disable_bulk_delete": True,
            "virtual_hosted_style_request": False,
            "skip_signature": False,
        },
        client_options=options,  # type: ignore[arg-type]  # the options are made above
        retry_config=retries(place.patience),
        credential_provider=key,  # type: ignore[arg-type]  # what it gives is made above
    )
