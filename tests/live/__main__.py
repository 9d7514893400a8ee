"""The contract suite on a simulator and on a real site, and what differs: `python -m tests.live`.

    python -m tests.live openstack             where LIVE_OPENSTACK_ENDPOINT and the like name it
    python -m tests.live openstack --lab DIR   a lab's folder (docs/live.md)

Then an instance is moved from a simulated site to the real one, home, and there again.
Ends with 1 when anything failed at the real site.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from controlplane.domain.site import ProviderKind
from tests.live import lab, telling
from tests.live.differences import report
from tests.live.places import place, variable

ROOT = Path(__file__).parents[2]
KINDS = {
    ProviderKind.OPENNEBULA: "TestOpenNebula",
    ProviderKind.OPENSTACK: "TestOpenStack",
    ProviderKind.OVHCLOUD: "TestOvhcloud",
    ProviderKind.PROXMOX: "TestProxmox",
    ProviderKind.XCPNG: "TestXcpng",
}
CONTRACT, MOVES = "contract", "moves"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", type=ProviderKind, choices=sorted(KINDS))
    parser.add_argument("--lab", type=Path, help="the folder of a lab's OpenStack")
    parser.add_argument("--only", choices=(CONTRACT, MOVES))
    parser.add_argument(
        "-k", dest="chosen", default="", help="tests of the suite, as pytest takes it"
    )
    given = parser.parse_args()
    environment = dict(os.environ)
    if given.lab is not None:
        environment |= lab.environment(given.lab)
    if place(given.kind, environment) is None:
        parser.error(f"{variable(given.kind, 'endpoint')} names no site, and there is no --lab")
    failed = False
    if given.only in {None, CONTRACT}:
        failed |= compare(given.kind, environment, given.chosen)
    if given.only in {None, MOVES}:
        failed |= move(given.kind, environment)
    sys.exit(failed)


def compare(kind: ProviderKind, environment: Mapping[str, str], chosen: str) -> bool:
    """Whether the real site failed where it ran the suite."""
    simulated = f"tests/contract/test_{kind.value}.py::{KINDS[kind]}"
    real = f"tests/live/test_contract.py::Test{kind.value.capitalize()}"
    with TemporaryDirectory(prefix="fedctl-live-") as folder:
        books = [Path(folder) / name for name in ("simulated", "real")]
        for suite, book in zip((simulated, real), books, strict=True):
            say(f"the suite: {suite}")
            began = time.monotonic()
            run(environment, suite, "-p", "tests.live.telling", "--told", str(book), "-k", chosen)
            say(f"took {time.monotonic() - began:.0f} s")
        there = telling.read(books[1])
        sys.stdout.write(report(telling.read(books[0]), there))
    return not there or any(told.outcome == telling.FAILED for told in there.values())


def move(kind: ProviderKind, environment: Mapping[str, str]) -> bool:
    say("moves between a simulated site and the real one")
    return run(environment, "tests/live/test_moves.py", "-s", "-k", kind.value) != 0


def run(environment: Mapping[str, str], *words: str) -> int:
    """pytest in a process of its own; live tests and others."""
    told = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "live or not live", "-rs"]
    return subprocess.run([*told, *words], env=environment, cwd=ROOT, check=False).returncode


def say(text: str) -> None:
    sys.stdout.write(f"\n== {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
