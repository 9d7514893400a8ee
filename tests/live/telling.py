"""A pytest plugin that writes down how each test of the contract went and what its driver was told.

`python -m pytest -p tests.live.telling --told FILE ...`: a line of JSON a test, with its outcome,
its seconds, and for each call of the driver which kinds of answers and errors came.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

import pytest

from controlplane.domain.answer import Seen
from controlplane.domain.errors import FedctlError
from drivers.contract import Driver

PASSED, SKIPPED, FAILED = "passed", "skipped", "failed"


@dataclass(slots=True)
class Told:
    """How one test went; `calls`: what each call of the contract answered, in its order of coming."""

    outcome: str = PASSED
    why: str = ""
    seconds: float = 0.0
    calls: dict[str, list[str]] = field(default_factory=dict)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--told", type=Path, required=True, help="where to write what was told")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Telling(config.getoption("told")), "what-drivers-were-told")


def read(path: Path) -> dict[str, Told]:
    """What a run wrote down, by the names of its tests."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = (json.loads(line) for line in lines)
    return {each.pop("test"): Told(**each) for each in found}


class Telling:
    """One run's book."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._now = Told()
        path.write_text("", encoding="utf-8")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._now = Told()
        done = yield
        with self._path.open("a", encoding="utf-8") as book:
            book.write(json.dumps({"test": item.name, **asdict(self._now)}) + "\n")
        return done

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[object]) -> Iterator[None]:
        made = yield
        if fixturedef.argname in {"driver", "second"} and isinstance(made, Driver):
            made.__class__ = listening(type(made))
            vars(made)["_heard"] = self._hear
        return made

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        now = self._now
        now.seconds += report.duration
        if report.failed:
            now.outcome, now.why = FAILED, f"{report.when}: {_last_line(report)}"
        elif report.skipped and now.outcome is PASSED:
            now.outcome, now.why = SKIPPED, _reason(report)

    def _hear(self, call: str, answer: str) -> None:
        answers = self._now.calls.setdefault(call, [])
        if answer not in answers:
            answers.append(answer)


@cache
def listening(cls: type[Driver]) -> type[Driver]:
    """`cls`, whose calls from outside are told to its `_heard`."""

    def look(self: Driver, name: str) -> object:
        value = super(made, self).__getattribute__(name)
        if name.startswith("_") or not callable(value):
            return value
        return _listened(name, value, vars(self)["_heard"])

    made = type(cls.__name__, (cls,), {"__getattribute__": look})
    return made


def _listened(
    name: str, call: Callable[..., object], heard: Callable[[str, str], None]
) -> Callable[..., object]:
    def asked(*args: object, **wishes: object) -> object:
        try:
            answer = call(*args, **wishes)
        except FedctlError as e:
            heard(name, described(e))
            raise
        heard(name, described(answer))
        return answer

    return asked


def described(answer: object) -> str:
    """Which kind of answer it is, without what differs from call to call."""
    match answer:
        case FedctlError():
            words = f"{type(answer).__name__} {answer.reason}"
        case Seen(it):
            words = f"Seen {_state(it)}"
        case bool() | None:
            words = str(answer)
        case str():
            words = "text" if answer else "no text"
        case _:
            words = f"{type(answer).__name__} {_state(answer)}"
    return words.rstrip()


def _state(noun: object) -> str:
    parts = [getattr(noun, name, None) for name in ("state", "stage", "power")]
    if (ready := getattr(noun, "ready", None)) is not None:
        parts.append("ready" if ready else "not ready")
    return " ".join(str(part) for part in parts if part is not None)


def _last_line(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else str(report.longrepr)
    return text.strip().splitlines()[0][:200] if text.strip() else ""


def _reason(report: pytest.TestReport) -> str:
    told = report.longrepr
    return str(told[2]).removeprefix("Skipped: ") if isinstance(told, tuple) else str(told)
