"""fedctl events: what changes, while it changes."""

import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated
from urllib.parse import urlencode

import typer

from api.cli import units
from api.cli.client import Doc
from api.cli.failure import Stopped
from api.cli.session import Form, Output, Session, Workspace
from api.schemas.errors import DETACHED
from controlplane.domain.errors import Unavailable

_AGAIN = 1.0  # seconds


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
                for kind, data in self._messages(f"{self.path}{query}"):
                    connected = True
                    if kind == "reset":
                        self.session.say("Some changes can not be told any more: read anew.")
                    elif data:
                        yield {"cursor": self.cursor, **json.loads(data)}
            except Unavailable:
                if not connected:
                    raise
            self._pause.wait(_AGAIN)

    def _messages(self, path: str) -> Iterator[tuple[str, str]]:
        kind = data = ""
        for line in self.session.client.lines(path):
            name, _, value = line.partition(": ")
            if name == "id":
                self.cursor = value
            elif name == "event":
                kind = value
            elif name == "data":
                data = value
            elif not line:
                yield kind, data
                kind = data = ""


def events(
    ctx: typer.Context,
    since: Annotated[str, typer.Option("--since", help="Go on behind this cursor.")] = "",
    limit: Annotated[int, typer.Option("--limit", help="Stop after so many; 0: never.")] = 0,
    workspace: Workspace = None,
    output: Output = Form.TABLE,
) -> None:
    with Session(ctx, form=output, workspace=workspace) as session:
        client = session.client
        inside = f"/workspaces/{workspace}" if workspace else ""
        path = f"/providers/fedctl.federation/v1/tenants/{session.context.tenant}{inside}/events"
        followed = _Followed(session, path, since)
        del client
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


def _line(change: Doc) -> str:
    place = "/".join(change[part] for part in ("workspace", "name") if part in change)
    at = units.moment(change["at"]).astimezone().strftime("%H:%M:%S")
    told = [change[part] for part in ("state", "phase", "what") if part in change]
    return f"{at}  {change['kind']:<16}  {place:<32}  {'  '.join(told)}".rstrip()
