"""Multipart uploads that somebody began and never ended: found in a bucket and removed.

The library that moves our bytes ends what fails; what a killed process leaves it cannot list.
"""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from types import TracebackType
from typing import Protocol, Self
from xml.etree import ElementTree as ET

import httpx
from httpx_auth import AWS4Auth

from controlplane.domain.errors import Unavailable, Unsupported
from controlplane.vault.s3errors import answered

_HINT = (
    "give the key the rights to list and end uploads that docs/stores.md names, or let a lifecycle"
    " rule of the bucket end them"
)


class Key(Protocol):
    @property
    def id(self) -> str: ...

    @property
    def secret(self) -> str: ...

    @property
    def token(self) -> str | None: ...


class Leftovers:
    """The unfinished uploads under a prefix of one bucket."""

    def __init__(
        self, *, url: str, bucket: str, prefix: str, region: str, key: Key,
        authority: bytes | None, timeout: timedelta,
    ) -> None:  # fmt: skip
        self._bucket = f"{url}/{bucket}"
        self._named = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix else ""
        auth = AWS4Auth(key.id, key.secret, region, "s3", security_token=key.token)
        verify = ssl.create_default_context(cadata=authority.decode() if authority else None)
        self._http = httpx.Client(auth=auth, verify=verify, timeout=timeout.total_seconds())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def sweep(self, before: datetime) -> int:
        """Remove those that began before that time; how many."""
        old = [(name, upload) for name, upload, at in self._all() if at < before]
        for name, upload in old:
            self._ask("DELETE", f"/{name}", {"uploadId": upload})
        return len(old)

    def _all(self) -> Iterator[tuple[str, str, datetime]]:
        after = {"key-marker": "", "upload-id-marker": ""}
        while True:
            page = ET.fromstring(  # noqa: S314  # what the customer's own store answers
                self._ask("GET", "", {"uploads": "", "prefix": self._prefix, **after})
            )
            space = page.tag.partition("}")[0] + "}" if page.tag.startswith("{") else ""
            for each in page.iter(f"{space}Upload"):
                found = [each.findtext(f"{space}{t}") for t in ("Key", "UploadId", "Initiated")]
                name, upload, began = (text or "" for text in found)
                yield name, upload, datetime.fromisoformat(began)
            if page.findtext(f"{space}IsTruncated") != "true":
                return
            after = {
                "key-marker": page.findtext(f"{space}NextKeyMarker") or "",
                "upload-id-marker": page.findtext(f"{space}NextUploadIdMarker") or "",
            }

    def _ask(self, method: str, path: str, params: dict[str, str]) -> bytes:
        what = f"unfinished uploads in {self._bucket}"
        with _told(what):
            answer = self._http.request(method, self._bucket + path, params=params)
        if answer.is_success or (answer.status_code == httpx.codes.NOT_FOUND and path):
            return answer.content
        if answer.status_code == httpx.codes.NOT_IMPLEMENTED:
            raise Unsupported(f"{what}: the store cannot list them: let it end them by itself")
        raise answered(answer.status_code, answer.text, what, self._named, _HINT)


@contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except httpx.HTTPError as e:
        raise Unavailable(
            f"{what}: no answer from the store ({type(e).__name__}); it is asked again"
        ) from e
