"""fedctl events: what changes, while it changes."""

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Annotated
from urllib.parse import urlencode

import typer

from api.cli import units
from api.cli.client import Client, Doc, opened
from api.cli.failure import Stopped
from api.cli.session import Form, Output, Session, Workspace
from api.schemas.errors import DETACHED
from controlplane.domain.errors import Unavailable

_AGAIN = 1.0  # seconds
_QUIET = 3.0  # seconds without a line, after which all is told


@dataclass(slots=True)
class _Followed:
    """A stream that goes on where it broke off."""

    session: Session
    path: str
    cursor: str
    _pause: threading.Event = field(default_factory=threading.Event)

    def changes(self) -> Iterator[Doc]:
        connected = False
        while True:
            query = f"?{urlencode({'since': self.cursor})}" if self.cursor else ""
            try:
                for cursor, kind, data in _messages(self.session.client, f"{self.path}{query}"):
                    self.cursor = cursor
                    connected = True
                    if kind == "reset":
                        self.session.say("Some changes can not be told any more: read anew.")
                    elif data:
                        yield {"cursor": self.cursor, **json.loads(data)}
            except Unavailable:
                if not connected:
                    raise
            self._pause.wait(_AGAIN)


def events(
    ctx: typer.Context,
    since: Annotated[str, typer.Option("--since", help="Go on behind this cursor.")] = "",
    limit: Annotated[int, typer.Option("--limit", help="Stop after so many; 0: never.")] = 0,
    workspace: Workspace = None,
    output: Output = Form.TABLE,
) -> None:
    with Session(ctx, form=output, workspace=workspace) as session:
        followed = _Followed(session, _path(session, workspace), since)
        try:
            for count, change in enumerate(followed.changes(), start=1):
                if output is Form.TABLE:
                    sys.stdout.write(f"{_line(change)}\n")
                    sys.stdout.flush()
                else:
                    session.item(change)
                if count == limit:
                    return
        except KeyboardInterrupt:
            notes = (f"fedctl events --since {followed.cursor}   to go on here",)
            raise Stopped("Left.", exit_code=DETACHED, notes=notes) from None


def recent_events(session: Session, most: int = 500) -> list[Doc]:
    """The newest changes that may be told, oldest first; `most` counts untold ones too."""
    path = _path(session)
    found: list[Doc] = []
    with closing(opened(session.context, timeout=_QUIET)) as client:
        now, _, _ = next(_messages(client, path))
        life, _, last = now.rpartition(".")
        query = urlencode({"since": f"{life}.{max(int(last) - most, 0)}"})
        try:
            for cursor, _, data in _messages(client, f"{path}?{query}"):
                found += [{"cursor": cursor, **json.loads(data)}] if data not in {"", "{}"} else []
                if int(cursor.rpartition(".")[2]) >= int(last):
                    break
        except Unavailable:
            pass  # the rest is not for us to hear: nothing comes before the next sign of life
    return found


def _path(session: Session, workspace: str | None = None) -> str:
    inside = f"/workspaces/{workspace}" if workspace else ""
    tenant = session.client.context.tenant
    return f"/providers/fedctl.federation/v1/tenants/{tenant}{inside}/events"


def _messages(client: Client, path: str) -> Iterator[tuple[str, str, str]]:
    """Cursor, kind and data of each message of the stream."""
    cursor = kind = data = ""
    for line in client.lines(path):
        name, _, value = line.partition(": ")
        if name == "id":
            cursor = value
        elif name == "event":
            kind = value
        elif name == "data":
            data = value
        elif not line:
            yield cursor, kind, data
            kind = data = ""


def _line(change: Doc) -> str:
    place = "/".join(change[part] for part in ("workspace", "name") if part in change)
    at = units.moment(change["at"]).astimezone().strftime("%H:%M:%S")
    told = [change[part] for part in ("state", "phase", "what") if part in change]
    return f"{at}  {change['kind']:<16}  {place:<32}  {'  '.join(told)}".rstrip()
