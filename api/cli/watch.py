"""Following an operation to its end, and leaving it with Ctrl-C."""

import threading
from types import TracebackType
from typing import Self

import httpx
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from api.cli import units
from api.cli.client import Doc, started
from api.cli.failure import Stopped
from api.cli.session import Form, Rows, Session
from api.schemas.errors import DETACHED, OUTCOME_EXIT
from controlplane.domain.errors import Unavailable
from controlplane.domain.operation import OperationState

# Short work is seen to end at once, long work is not asked of often.
_FIRST, _SLOWER, _EVERY = 0.05, 1.5, 0.5
_PATIENT = 60  # times of `_EVERY`: half a minute
_BAR = 17
_AROUND = 8  # lines of the screen that are not steps
_NAME = 16
_WAITS = "waits"
_MARKS = {"ok": "ok", "running": ">>", "failed": "!!", "undone": "<<"}


def ended(operation: Doc) -> OperationState | None:
    """How the operation came out; None while it goes on."""
    outcome = operation["status"].get("outcome")
    return None if outcome is None else OperationState(outcome)


def name_of(operation: Doc) -> str:
    """What a person types to come back to it."""
    metadata = operation["metadata"]
    workspace = metadata.get("workspace")
    return f"{workspace}/{metadata['name']}" if workspace else str(metadata["name"])


def follow(session: Session, path: str, title: str) -> Doc:
    """The operation at `path` once it has ended; its steps are shown until then.

    As JSON lines, every change of it is one.
    """
    waiting = threading.Event()
    shown = _Bars(session, title) if session.talk.is_terminal else _Lines(session, title)
    operation = session.client.document("GET", path)
    pause = _FIRST
    try:
        with shown:
            while True:
                shown.update(operation)
                if session.form is Form.JSONL:
                    session.item(operation)
                if ended(operation) is not None:
                    return operation
                waiting.wait(pause)
                pause = min(pause * _SLOWER, _EVERY)
                operation = _again(session, path, waiting)
    except KeyboardInterrupt:
        name = name_of(operation)
        raise Stopped(
            f"Left {title}: it goes on.",
            exit_code=DETACHED,
            notes=(f"fedctl operation watch {name}   to come back to it",),
        ) from None


def _again(session: Session, path: str, waiting: threading.Event) -> Doc:
    """The operation now; a server that is being restarted is waited for."""
    for _ in range(_PATIENT):
        try:
            return session.client.document("GET", path)
        except Unavailable:
            waiting.wait(_EVERY)
    return session.client.document("GET", path)


def check(operation: Doc, *, what: str) -> Doc:
    """The operation, when it succeeded; else stopped with what went wrong and its exit code."""
    outcome = ended(operation)
    if outcome is OperationState.SUCCEEDED or outcome is None:
        return operation
    raise Stopped(
        f"{what}: {outcome.value}.",
        exit_code=OUTCOME_EXIT[outcome],
        notes=(*reasons(operation), f"exit {OUTCOME_EXIT[outcome]}"),
    )


def finish(session: Session, answer: httpx.Response, title: str, *, wait: bool) -> Doc | None:
    """The work that `answer` started, once it succeeded; only its name where nobody waits."""
    path = started(answer)
    if not path:
        return None
    if not wait:
        operation = session.client.document("GET", path)
        session.data(operation, Rows(("OPERATION",), [[name_of(operation)]]))
        return None
    return check(follow(session, path, title), what=f"{title} did not succeed")


def reasons(operation: Doc) -> tuple[str, ...]:
    """Why it ended so, in the words of the operation."""
    status = operation["status"]
    lines = [f"{f['severity']}  {f['id']}  {f['evidence']}" for f in blockers(status)]
    problem = status.get("problem")
    if problem:
        step = f' at "{problem["step"]}"' if problem.get("step") else ""
        lines.append(f"why     {problem['message']}{step}")
        if problem.get("detail"):
            lines.append(f"quoted  {problem['detail']}")
    lines += look_at(status)
    lines.append(f"look    fedctl operation show {name_of(operation)}")
    return tuple(lines)


def look_at(status: Doc) -> list[str]:
    """What a person must look at, where an operation needs one."""
    return [f"see     {line}" for line in status.get("lookAt") or ()]


def blockers(status: Doc) -> list[Doc]:
    return [f for f in status.get("findings", []) if f["severity"] == "blocker"]


class _Lines:
    """For logs: a line when a step begins or ends."""

    def __init__(self, session: Session, title: str) -> None:
        self._session = session
        self._title = title
        self._told: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held."""

    def update(self, operation: Doc) -> None:
        if not self._told:
            self._session.say(f"{self._title}   operation {name_of(operation)}")
            self._told[""] = ""
        waits = operation["status"].get("waitsFor", "")
        if waits != self._told.get(_WAITS, ""):
            self._told[_WAITS] = waits
            if waits:
                self._session.say(f"  ..  waits: {waits}")
        for step in operation["status"]["steps"]:
            if self._told.get(step["name"]) != step["state"]:
                self._told[step["name"]] = step["state"]
                self._session.say(step_line(step))


class _Bars:
    """For people: every step, with a bar for the copy that runs."""

    def __init__(self, session: Session, title: str) -> None:
        self._title = title
        self._live = Live(console=session.talk, auto_refresh=False, transient=False)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def update(self, operation: Doc) -> None:
        rows = max(self._live.console.height - _AROUND, 1)
        self._live.update(screen(self._title, operation, rows=rows), refresh=True)


def screen(title: str, operation: Doc, *, rows: int = 20) -> RenderableType:
    """The whole picture of an operation; while it runs, no more steps than `rows`."""
    status = operation["status"]
    lines = [_line(f"{title}   operation {name_of(operation)}", "bold")]
    steps = status["steps"]
    goes_on = ended(operation) is None
    shown = steps[-rows:] if goes_on else steps
    if len(shown) < len(steps):
        lines.append(_line(f"  ..  {len(steps) - len(shown)} steps before", "dim"))
    lines += [_line(step_line(step)) for step in shown]
    lines += [_line(progress_line(copy, operation)) for copy in running_copies(operation)]
    if goes_on:
        if waits := status.get("waitsFor"):
            lines.append(_line(f"  ..  waits: {waits}"))
        elif not steps:
            lines.append(_line("  ..  waiting for a worker"))
        lines.append(_line("Ctrl-C leaves it running.", "dim"))
    return Group(*lines)


def running_copies(operation: Doc) -> list[Doc]:
    """Copies that are not through, while the operation goes on."""
    if ended(operation) is not None:
        return []
    return [p for p in operation["status"].get("progress", []) if p["done"] < p["total"]]


def _line(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def step_line(step: Doc) -> str:
    mark = _MARKS.get(step["state"], "..")
    took = units.seconds(step["seconds"]) if "seconds" in step else ""
    tries = f"  try {step['attempts']}" if step["attempts"] > 1 else ""
    message = f"  {step['message']}" if step.get("message") else ""
    return f"  {mark}  {step['name']:<40} {took:>8}{tries}{message}".rstrip()


def progress_line(copy: Doc, operation: Doc) -> str:
    """`>>  copy 0  [####----]  4.4 / 6.1 GiB   43 MiB/s   39 s left`."""
    done, total = copy["done"], copy["total"]
    filled = round(_BAR * done / total) if total else _BAR
    bar = f"[{'#' * filled}{'-' * (_BAR - filled)}]"
    line = f"  >>  {copy['what']:<{_NAME}} {bar}  {units.size(done)} / {units.size(total)}"
    began = _began(copy, operation)
    passed = (units.moment(copy["at"]) - units.moment(began)).total_seconds() if began else 0.0
    if done and passed > 0:
        rate = done / passed
        left = units.seconds((total - done) / rate)
        line += f"   {units.size(rate)}/s   {left} left"
    return line


def _began(copy: Doc, operation: Doc) -> str | None:
    """When the step that this copy belongs to began."""
    running = [s for s in operation["status"]["steps"] if s["state"] == "running"]
    named = [s for s in running if s["name"] == copy["what"]]
    steps = named or running
    return str(steps[-1]["startedAt"]) if steps else None
