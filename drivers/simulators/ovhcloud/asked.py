"""One call to the simulated API, and what is known of what it names."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from drivers.simulators.ovhcloud.estate import Estate, Refusal, Server, Task

Query = dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One call: the parts of its path, its query, its body, and the headers that matter."""

    parts: tuple[str, ...]
    query: Query
    body: dict[str, Any]
    cursor: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A part of a listing of the second version, and where the next begins."""

    rows: list[Any]
    after: str


def told_time(at: float | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def known_server(estate: Estate, name: str) -> Server:
    if name not in estate.servers:
        raise Refusal(404, f"The requested object (serviceName = {name}) does not exist")
    server = estate.servers[name]
    if server.expired:
        raise Refusal(460, "This service is expired")
    return server


def known_task(estate: Estate, about: str, number: str) -> Task:
    made = estate.tasks.get(int(number)) if number.isdecimal() else None
    if made is None or made.about != about:
        raise Refusal(404, f"The requested object (taskId = {number}) does not exist")
    return made
