"""What the five simulated services share: the world, its pace, its limits, their manners."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from drivers.simulators.faults import Faults, Profile
from drivers.simulators.guest import Guests
from drivers.simulators.openstack.wire import Call, Refusal
from drivers.simulators.openstack.world import Record, World

GIB = 1 << 30

DEFAULT_QUOTA: Mapping[str, int] = {
    "instances": 50,
    "cores": 200,
    "ram": 400 * 1024,  # MiB
    "volumes": 200,
    "snapshots": 200,
    "gigabytes": 10_000,
    "per_volume_gigabytes": -1,
    "port": 500,
    "network": 100,
    "subnet": 100,
}
LIMIT_MAX = 1000


@dataclass(slots=True, kw_only=True)
class Knobs:
    """What a test or an operator turns; every one may change while the cloud runs."""

    quota: dict[str, int] = field(default_factory=lambda: dict(DEFAULT_QUOTA))
    token_seconds: float = 3600.0
    allow_loopback_pull: bool = False  # glance's allowed_hosts would name the loopback addresses
    pull_ports: frozenset[int] | None = None  # ports that glance may pull from beside 80 and 443
    allow_force_upload: bool = False  # cinder's enable_force_upload
    choose_mac: bool = True  # policy lets the project choose MAC addresses
    max_page: int = LIMIT_MAX  # the most that one page of a listing holds
    host_memory: int | None = None  # MiB that fit on all hosts together; None: no bound
    cell_down: bool = False  # nova's cell does not answer: listings give id and UNKNOWN
    guest_ignores_acpi: bool = False


@dataclass(slots=True, kw_only=True)
class Cloud:
    """One simulated OpenStack, as its services see it."""

    name: str
    world: World
    profile: Profile
    faults: Faults
    guests: Guests
    knobs: Knobs
    region: str = "RegionOne"
    build_faults: list[str] = field(default_factory=list)  # reasons why next builds fail
    import_faults: list[str] = field(default_factory=list)  # reasons why next imports fail
    volume_faults: list[str] = field(default_factory=list)  # reasons why next volumes fail
    step_scale: dict[str, float] = field(default_factory=dict)  # action name -> factor of a step

    def step(self, name: str, steps: float = 1.0, **args: Any) -> None:
        """Let an action follow after so many asynchronous steps of the profile."""
        factor = self.step_scale.get(name, 1.0)
        self.world.later(self.profile.step_seconds * steps * factor, name, **args)

    def stopped(self) -> bool:
        return self.world.stopping.is_set()


def set_quota(cloud: Cloud, call: Call, limits: Mapping[str, Any]) -> None:
    """Let an administrator change what the project may have."""
    if not call.admin:
        raise Refusal(403, "Policy doesn't allow quota sets to be updated.")
    for name, limit in limits.items():
        if name in cloud.knobs.quota:
            cloud.knobs.quota[name] = int(limit)


def found(record: Record | None, what: str, call: Call | None = None) -> Record:
    """The record, if it is there and of the caller's project."""
    if record is None or (
        call is not None
        and not call.admin
        and not record.get("shared")
        and record.get("visibility") != "public"
        and record.get("project_id", call.project) != call.project
    ):
        raise Refusal(404, what)
    return record


def mine(records: Iterable[Record], call: Call) -> list[Record]:
    everything = call.admin and call.one("all_tenants") in {"1", "true", "True"}
    return [
        r
        for r in records
        if everything or r.get("shared") or r.get("project_id", call.project) == call.project
    ]


def page(
    records: list[Record], call: Call, path: str, most: int, refuse: Callable[[str], Refusal]
) -> tuple[list[Record], str | None]:
    """One page of `records` after the marker, and the address of the next one."""
    text = call.one("limit")
    if text is not None and not re.fullmatch(r"\d+", text):
        raise refuse("limit param must be an integer")
    limit = min(int(text) if text else most, most)
    marker = call.one("marker")
    if marker:
        at = next((i for i, r in enumerate(records) if r["id"] == marker), None)
        if at is None:
            raise refuse(f"marker [{marker}] not found")
        records = records[at + 1 :]
    rest = records[:limit] if limit else []
    if not limit or len(rest) < limit:  # a full page names a next one, even if that is empty
        return rest, None
    query = [(k, v) for k, v in call.query if k != "marker"] + [("marker", rest[-1]["id"])]
    return rest, f"{path}?{urlencode(query)}"


def version_of(text: str | None, service: str) -> str | None:
    """The version that an `OpenStack-API-Version` header asks of `service`."""
    for part in (text or "").split(","):
        words = part.split()
        if len(words) == 2 and words[0] == service:
            return words[1]
    return None


def negotiated(asked: str | None, low: tuple[int, int], high: tuple[int, int]) -> tuple[int, int]:
    """The microversion to speak; a Refusal with 400 or 406 when it cannot be had."""
    if asked is None:
        return low
    if asked == "latest":
        return high
    match = re.fullmatch(r"(\d+)\.(\d+)", asked)
    if not match:
        raise Refusal(
            400,
            f"API Version String {asked} is of invalid format. Must be of"
            " format MajorNum.MinorNum.",
        )
    version = (int(match[1]), int(match[2]))
    if not low <= version <= high:
        raise Refusal(
            406,
            f"Version {asked} is not supported by the API. Minimum is {low[0]}.{low[1]}"
            f" and maximum is {high[0]}.{high[1]}.",
        )
    return version
