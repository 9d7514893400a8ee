"""fedctl events against a real API."""

from tests.api.world import World
from tests.cli.conftest import Fedctl


def test_events_are_lines_that_carry_the_cursor_to_go_on_with(w: World, fedctl: Fedctl):
    import json

    _, start = w.services.changes.place(None)
    with w.store.read() as tx:
        cursor = f"{tx.settings.incarnation}.{start.until}"
    first, second = w.workspace(), w.workspace()
    told = fedctl.ok("events", "--since", cursor, "--limit", "1", "-o", "jsonl").out.splitlines()
    assert len(told) == 1
    line = json.loads(told[0])
    left = w.services.changes.read(int(line["cursor"].rpartition(".")[2])).changes
    count = sum(change.key.tenant == w.tenant for change in left)
    rest = fedctl.ok("events", "--since", line["cursor"], "--limit", str(count), "-o", "jsonl")
    names = {line["name"], *(json.loads(each)["name"] for each in rest.out.splitlines())}
    assert {first, second} <= names
    assert first in fedctl.ok("events", "--since", cursor, "--limit", "4").out


def test_what_is_no_cursor_is_refused(fedctl: Fedctl):
    assert fedctl("events", "--since", "yesterday").code == 2
