"""What holds for every test: no network but this machine, the same examples on every run."""

import asyncio
import functools
import gc
import signal
from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction

import pytest
from hypothesis import HealthCheck, settings
from pytest_socket import enable_socket, socket_allow_hosts

pytest.register_assert_rewrite("tests.contract")

settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("ci")

LOCAL = ["127.0.0.1", "::1", "localhost"]
# An asynchronous test gets so much less than its time limit, and then its clean-up still runs.
CLEANS_UP_SECONDS = 15.0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The limit of pytest-timeout cuts the loop off: what was begun there hung later tests."""
    usual = float(config.getini("timeout"))
    for item in items:
        if isinstance(item, pytest.Function) and iscoroutinefunction(item.obj):
            marker = item.get_closest_marker("timeout")
            limit = float(marker.args[0]) if marker is not None else usual
            item.obj = _ends_within(limit - CLEANS_UP_SECONDS, item.obj)


def _ends_within(seconds: float, test: Callable[..., Awaitable[None]]) -> object:
    @functools.wraps(test)
    async def limited(*args: object, **kwargs: object) -> None:
        async with asyncio.timeout(seconds):
            await test(*args, **kwargs)

    return limited


class TellsFailuresAtOnce:
    """So that a run which is cut off has named them."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal = terminal

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._terminal.ensure_newline()
            self._terminal.write_line(f"FAILED {report.nodeid} ({report.when})", red=True)


def pytest_configure() -> None:
    """Ctrl-C reaches child processes even where the run ignores it, as in a shell's background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What was imported and collected stays: looking at it again cost a fifth of all time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def pytest_sessionstart(session: pytest.Session) -> None:
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if isinstance(terminal, pytest.TerminalReporter):
        session.config.pluginmanager.register(TellsFailuresAtOnce(terminal))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("live") is None:
        socket_allow_hosts(LOCAL, allow_unix_socket=True)


@pytest.fixture(autouse=True)
def _open_sockets_for_live_tests(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("live") is not None:
        enable_socket()
