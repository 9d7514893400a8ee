"""One run of the program: where it speaks, to whom, in which form."""

import functools
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from enum import StrEnum
from types import TracebackType
from typing import Annotated, Any, TypeVar, cast

import typer
import yaml
from rich.console import Console
from rich.table import Table

from api.cli.client import Client, Doc, opened
from api.cli.completion import offering
from api.cli.contexts import Context, Contexts, Globals
from controlplane.domain.errors import Invalid
from controlplane.domain.resource import Kind

F = TypeVar("F", bound=Callable[..., Any])


_NAME_WIDTH = 48


class Form(StrEnum):
    """How data is written to stdout."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    YAML = "yaml"


Output = Annotated[
    Form, typer.Option("-o", "--output", help="How to write data.", envvar="FEDCTL_OUTPUT")
]
Workspace = Annotated[
    str | None,
    typer.Option(
        "-w",
        "--workspace",
        help="The workspace.",
        envvar="FEDCTL_WORKSPACE",
        autocompletion=offering(Kind.WORKSPACE),
    ),
]
Yes = Annotated[bool, typer.Option("-y", "--yes", help="Ask nothing.")]


class Session(AbstractContextManager["Session"]):
    """Data goes to stdout, talk to stderr; colours and bars only where a person looks."""

    def __init__(
        self, ctx: typer.Context, *, form: Form = Form.TABLE, workspace: str | None = None
    ) -> None:
        said: Globals = ctx.find_root().obj
        self.contexts = Contexts.default(said.config)
        self.context = self.contexts.chosen(said, workspace)
        self.named_workspace = workspace or ""
        self.form = form
        # Names and curl lines may hold what rich takes for an emoji.
        self.out = Console(file=sys.stdout, soft_wrap=True, highlight=False, emoji=False)
        self.talk = Console(file=sys.stderr, soft_wrap=True, highlight=False, emoji=False)
        show = self._show_request if said.show_request else None
        self._client: Client | None = None
        self._show = show
        self._last: object = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._client is not None:
            self._client.close()

    @property
    def client(self) -> Client:
        """Connects on first use; the tenant is that of the token unless one was named."""
        if self._client is None:
            self._client = opened(self.context, show=self._show)
            self.context = self._client.context
        return self._client

    def with_context(self, context: Context) -> Client:
        """Speaks as `context` from now on."""
        if self._client is not None:
            self._client.close()
        self.context = context
        self._client = Client(context, show=self._show)
        return self._client

    def say(self, text: str = "") -> None:
        self.talk.print(text, markup=False)

    def data(self, document: object, rows: "Rows | None" = None) -> None:
        """One document for programs, or a table for people; JSON lines have one for each item."""
        if self.form is Form.JSONL:
            for each in document if isinstance(document, list) else [document]:
                self.item(each)
        elif self.form is Form.JSON:
            sys.stdout.write(json.dumps(document, indent=2) + "\n")
        elif self.form is Form.YAML:
            sys.stdout.write(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
        elif rows is not None:
            rows.write(self.out)

    def item(self, document: object) -> None:
        """One document of a stream; the same is not said twice in a row."""
        if document == self._last:
            return
        self._last = document
        if self.form is Form.YAML:
            text = yaml.safe_dump(
                document, sort_keys=False, allow_unicode=True, explicit_start=True
            )
            sys.stdout.write(text)
        else:
            sys.stdout.write(f"{json.dumps(document)}\n")
        sys.stdout.flush()

    def agreed(self, question: str, *, yes: bool) -> bool:
        """Whether to go on; where nobody can be asked, `--yes` must say so."""
        if yes:
            return True
        if not sys.stdin.isatty():
            raise Invalid(f"{question} There is nobody to ask here: add --yes to agree")
        self.talk.print(f"{question} [y/N] ", end="", markup=False)
        return sys.stdin.readline().strip().lower() in {"y", "yes"}

    def _show_request(self, line: str) -> None:
        self.talk.print(line, markup=False, style="dim")


class Rows:
    """A plain table: columns are aligned, nothing is drawn around them."""

    def __init__(self, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        self._columns = columns
        self._rows = [[str(cell) for cell in row] for row in rows]

    def write(self, console: Console) -> None:
        if not self._rows:
            return
        if not console.is_terminal:
            self._write_plain(console)
            return
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        last = len(self._columns) - 1
        for index, column in enumerate(self._columns):
            # A name that is cut off cannot be typed again: only the last column gives way.
            width = max(len(column), *(len(row[index]) for row in self._rows))
            least = None if index == last else min(width, _NAME_WIDTH)
            table.add_column(column, no_wrap=True, min_width=least)
        for row in self._rows:
            table.add_row(*row)
        console.print(table, markup=False)

    def _write_plain(self, console: Console) -> None:
        """Aligned, and nothing cut off to fit a screen that is not there."""
        lines = [list(self._columns), *self._rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self._columns))]
        for line in lines:
            cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            console.file.write("  ".join(cells).rstrip() + "\n")


class Facts(Rows):
    """One thing, a line for each of its fields that has a value."""

    def __init__(self, fields: Mapping[str, object]) -> None:
        super().__init__((), ((k, v) for k, v in fields.items() if v not in {None, ""}))

    def write(self, console: Console) -> None:
        width = max((len(row[0]) for row in self._rows), default=0)
        for name, value in self._rows:
            console.print(f"{name.ljust(width)}  {value}", markup=False)


def examples(*lines: str, text: str) -> str:
    """Help that begins with real examples."""
    shown = "\n".join(f"  {line}" for line in lines)
    return f"\b\nExamples:\n{shown}\n\n{text}"


def command(
    app: typer.Typer, name: str, *lines: str, text: str, passes_on: bool = False
) -> Callable[[F], F]:
    """A command whose help begins with real examples; `passes_on` leaves unknown options to it."""
    settings = {"allow_extra_args": True, "ignore_unknown_options": True} if passes_on else None
    made = app.command(
        name, help=examples(*lines, text=text), short_help=text, context_settings=settings
    )
    return made if passes_on else lambda function: made(_showing(function))


SHOW_REQUEST_HELP = "Print each request as a curl command, without token and secrets."
_ShowRequest = Annotated[bool, typer.Option("--show-request", help=SHOW_REQUEST_HELP)]


def _showing(function: F) -> F:
    """The same command with `--show-request`, which may stand behind its name as before it."""

    @functools.wraps(function)
    def run(*, ctx: typer.Context, show_request: bool, **said: object) -> object:
        if show_request:
            root = ctx.find_root()
            root.obj = replace(root.obj, show_request=True)
        return function(ctx=ctx, **said)

    signature = inspect.signature(function)
    asked = inspect.Parameter(
        "show_request", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_ShowRequest
    )
    parameters = [*signature.parameters.values(), asked]
    vars(run)["__signature__"] = signature.replace(parameters=parameters)
    return cast("F", run)


def field(document: Doc, *path: str) -> Any:  # noqa: ANN401  # whatever the answer holds there
    """What lies under `path`; None where something is missing."""
    found: Any = document
    for name in path:
        if not isinstance(found, Mapping) or name not in found:
            return None
        found = found[name]
    return found
