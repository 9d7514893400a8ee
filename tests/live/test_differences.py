"""What the runner tells of two runs, and what it hears of a driver."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from controlplane.domain.answer import Absent, Seen, Unknown
from controlplane.domain.disk import ExportSeen, ExportStage, SnapshotSeen, VolumeSeen, VolumeState
from controlplane.domain.errors import Busy, Conflict
from controlplane.domain.site import ProviderKind, SiteAccess, SiteName
from drivers.contract import Volumes, capabilities, require
from drivers.fake.driver import FakeDriver
from tests.live import telling
from tests.live.differences import answers, outcomes, report
from tests.live.telling import Told, described, listening


def test_a_test_that_went_another_way_is_named_with_its_reason():
    here = {"test_a": Told(), "test_b": Told(), "test_c": Told(outcome="skipped", why="no facet")}
    there = {"test_a": Told(), "test_b": Told(outcome="failed", why="call: it broke")}
    assert outcomes(here, there) == [
        "  test_b: simulated passed; real failed (call: it broke)",
        "  test_c: simulated skipped (no facet); real did not run it",
    ]


def test_an_answer_counts_that_never_came_from_the_other_side():
    here = {
        "test_a": Told(calls={"find": ["Absent"], "delete": ["None"]}),
        "test_b": Told(calls={"find": ["Seen ready"]}),
        "test_c": Told(calls={"find": ["Unknown"]}),
    }
    there = {
        "test_a": Told(calls={"find": ["Seen ready", "Absent"], "delete": ["Busy", "None"]}),
        "test_b": Told(calls={"find": ["Seen ready"]}),
        "test_c": Told(outcome="failed", calls={"find": ["Seen failed"]}),
    }
    assert answers(here, there) == ["  delete: Busy: real only, in 1 tests (test_a)"]


def test_two_runs_alike_have_no_differences():
    run = {"test_a": Told(seconds=2.0, calls={"find": ["Absent"]})}
    told = report(run, run)
    assert told.count("  none") == 2
    assert "2.0 s test_a (2.0 s simulated)" in told


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Busy("wait"), "Busy"),
        (Conflict("no", reason="not-fenced"), "Conflict not-fenced"),
        (Absent(), "Absent"),
        (Unknown(why="a cell is down"), "Unknown"),
        (None, "None"),
        (True, "True"),
        ("a-ref", "text"),
        ("", "no text"),
        (Seen("a-ref"), "Seen"),
        (Seen(SnapshotSeen(ref="s", ready=False, epoch=1)), "Seen not ready"),
        (Seen(VolumeSeen(ref="v", size=1, state=VolumeState.READY, epoch=1)), "Seen ready"),
        (ExportSeen(stage=ExportStage.WORKING, size=1, epoch=1), "ExportSeen working"),
    ],
)
def test_an_answer_is_told_by_its_kind(answer: object, words: str):
    assert described(answer) == words


def test_a_driver_that_is_listened_to_is_what_it_was():
    access = SiteAccess(
        site=SiteName("suite"),
        provider=ProviderKind.FAKE,
        endpoint="fake://listened",
        secrets={"token": ""},
    )
    driver = FakeDriver(access)
    heard: list[tuple[str, str]] = []
    cls = type(driver)
    driver.__class__ = listening(cls)
    vars(driver)["_heard"] = lambda call, answer: heard.append((call, answer))
    assert capabilities(driver) == capabilities(cls)
    assert require(driver, Volumes) is driver
    assert driver.limits == cls.limits
    driver.check()
    assert heard == [("check", "Health")]


def test_a_run_is_written_down_and_read_again(tmp_path: Path):
    book = tmp_path / "book"
    told = Told(seconds=1.5, calls={"find": ["Absent"]})
    book.write_text(json.dumps({"test": "test_a", **asdict(told)}) + "\n")
    assert telling.read(book) == {"test_a": told}
    assert telling.read(tmp_path / "none") == {}
