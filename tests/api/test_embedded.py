"""The folder of one embedded system."""

import json
from pathlib import Path

from api.embedded import State


def test_ports_are_chosen_once_and_none_twice(tmp_path: Path) -> None:
    chosen = State(folder=tmp_path).ports()
    assert len(set(chosen.values())) == len(chosen)
    assert State(folder=tmp_path).ports() == chosen


def test_a_folder_of_an_older_fedctl_keeps_its_ports_and_gets_the_missing_ones(
    tmp_path: Path,
) -> None:
    names = set(State(folder=tmp_path / "new").ports())
    (tmp_path / "ports.json").write_text(json.dumps({"api": 4711, "openstack": 4712}))
    chosen = State(folder=tmp_path).ports()
    assert (chosen["api"], chosen["openstack"]) == (4711, 4712)
    assert set(chosen) == names
    assert len(set(chosen.values())) == len(chosen)
