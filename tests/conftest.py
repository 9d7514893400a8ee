"""What holds for every test: no network but this machine, the same examples on every run."""

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


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("live") is None:
        socket_allow_hosts(LOCAL, allow_unix_socket=True)


@pytest.fixture(autouse=True)
def _open_sockets_for_live_tests(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("live") is not None:
        enable_socket()
