"""The API as the commands call it: one answer or one named failure."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import httpx
from pydantic import ValidationError

from api.cli.contexts import Context
from api.cli.curl import curl
from api.cli.failure import refused
from api.schemas.errors import ProblemOut
from api.schemas.version import fedctl_version
from controlplane.domain.errors import Unavailable
from controlplane.domain.kinds import KindFacts

Doc = dict[str, Any]
_TIMEOUT = httpx.Timeout(30.0, read=300.0)
_FAILED = 400
OPERATION_HEADER = "Fedctl-Operation"


class Client:
    """`show` is told of every request as a curl line, without token and secrets."""

    def __init__(
        self,
        context: Context,
        *,
        show: Callable[[str], None] | None = None,
        timeout: float | httpx.Timeout = _TIMEOUT,
    ) -> None:
        headers = {"User-Agent": f"fedctl/{fedctl_version()}", "Accept": "application/json"}
        if context.token:
            headers["Authorization"] = f"Bearer {context.token}"
        self._http = httpx.Client(
            base_url=context.url,
            headers=headers,
            timeout=timeout,
            # Loading certificates takes longer than most commands; plain HTTP looks at none.
            verify=not context.url.startswith("http://"),
        )
        self._url = context.url
        self._show = show
        self.context = context

    def close(self) -> None:
        self._http.close()

    def send(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        content: bytes | None = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        piped: str = "",
    ) -> httpx.Response:
        """One request; `piped` is the shell command that writes `content`, to show it."""
        self._tell(method, path, json=json, params=params, headers=headers, piped=piped)
        try:
            answer = self._http.request(
                method, path, json=json, content=content, params=params, headers=headers
            )
        except httpx.HTTPError as e:
            raise Unavailable(
                f"{self._url} did not answer ({type(e).__name__}): see that fedctl runs there"
                " (fedctl dev starts one here), then ask again"
            ) from e
        return _good(answer)

    def document(self, method: str, path: str, **more: Any) -> Doc:  # noqa: ANN401  # as for send
        return dict(self.send(method, path, **more).json())

    def lines(self, path: str) -> Iterator[str]:
        """A streamed answer, line by line."""
        self._tell("GET", path)
        try:
            with self._http.stream("GET", path) as answer:
                if answer.status_code >= _FAILED:
                    answer.read()
                    _good(answer)
                yield from answer.iter_lines()
        except httpx.HTTPError as e:
            raise Unavailable(f"{self._url} broke off ({type(e).__name__}): ask again") from e

    def _tell(self, method: str, path: str, **more: Any) -> None:  # noqa: ANN401  # as for curl
        if self._show is not None:
            token = bool(self.context.token)
            self._show(curl(method, f"{self._url}{path}", token=token, **more))

    # kinds

    def path(self, entry: KindFacts, name: str | None = None, workspace: str = "") -> str:
        """The path of a collection, or of one thing in it."""
        inside = entry.collection_path(self.context.tenant, workspace)
        item = "" if name is None else f"/{name}"
        return f"/providers/{entry.area}/{inside}{item}"

    def get(self, entry: KindFacts, name: str, workspace: str = "") -> Doc:
        return self.document("GET", self.path(entry, name, workspace))

    def list(
        self, entry: KindFacts, workspace: str = "", labels: str = "", limit: int | None = None
    ) -> list[Doc]:
        """Every page, or the first `limit` entries."""
        found: list[Doc] = []
        params = {"labels": labels} if labels else {}
        if limit is not None:
            params["limit"] = str(limit)
        while True:
            page = self.document("GET", self.path(entry, workspace=workspace), params=params)
            found += page["items"]
            token = page["metadata"].get("skipToken")
            if token is None or (limit is not None and len(found) >= limit):
                return found[:limit]
            params["skipToken"] = token

    def put(
        self,
        entry: KindFacts,
        name: str,
        spec: Mapping[str, object],
        *,
        workspace: str = "",
        extensions: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        body = {"spec": spec, "extensions": extensions or {}, "labels": labels or {}}
        return self.send("PUT", self.path(entry, name, workspace), json=body)


def opened(
    context: Context,
    *,
    show: Callable[[str], None] | None = None,
    timeout: float | httpx.Timeout = _TIMEOUT,
) -> Client:
    """A client whose context names a tenant: that of its token, unless one was named."""
    client = Client(context, show=show, timeout=timeout)
    if context.token and not context.tenant:
        me = client.document("GET", "/providers/fedctl.identity/v1/me")
        client.context = replace(context, tenant=str(me["tenant"]))
    return client


def started(answer: httpx.Response) -> str:
    """The path of the operation that a request started; empty where it started none."""
    urn = answer.headers.get(OPERATION_HEADER, "")
    return f"/providers/{urn}" if urn else ""


def _good(answer: httpx.Response) -> httpx.Response:
    if answer.status_code < _FAILED:
        return answer
    try:
        problem = ProblemOut.model_validate_json(answer.content)
    except ValidationError as e:
        raise Unavailable(
            f"{answer.url} answered {answer.status_code} and no problem document:"
            " is it a fedctl that listens there?"
        ) from e
    raise refused(problem)
