"""Names are as SECA has them, and derived ids are always the same."""

import re
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.errors import Invalid
from controlplane.domain.ids import NAME_MAX, ZONE_NAME_MAX, checked_name, derived

LABELS = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,10}[a-z0-9])?", fullmatch=True)
NAMES = st.lists(LABELS, min_size=1, max_size=8).map(".".join)


@given(NAMES)
def test_labels_joined_by_dots_are_names(name: str):
    assert checked_name(name) == name


@given(st.text(max_size=40))
def test_what_passes_is_made_of_the_allowed_characters_only(text: str):
    try:
        checked_name(text)
    except Invalid:
        return
    assert re.fullmatch(r"[-.a-z0-9]+", text)
    assert text[0] not in "-."
    assert text[-1] not in "-."
    assert ".." not in text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        ".",
        "a.",
        ".a",
        "a..b",
        "a-.b",
        "a.-b",
        "A",
        "a_b",
        "a b",
        "a\n",
        "ä",
        "\u0661",
        "a/b",
    ],
)
def test_these_are_no_names(text: str):
    with pytest.raises(Invalid):
        checked_name(text)


@pytest.mark.parametrize("longest", [ZONE_NAME_MAX, NAME_MAX])
def test_the_bound_is_exact(longest: int):
    assert checked_name("a" * longest, longest=longest)
    with pytest.raises(Invalid, match="zone name is"):
        checked_name("a" * (longest + 1), what="zone name", longest=longest)


def test_a_message_quotes_no_endless_text():
    with pytest.raises(Invalid) as caught:
        checked_name("?" * 100)
    assert len(str(caught.value)) < 250


@given(st.uuids(), st.lists(st.text("abc0", min_size=1), min_size=1, max_size=3))
def test_a_step_always_names_the_same_artefact(parent: UUID, path: list[str]):
    assert derived(parent, *path) == derived(parent, *path)
    assert derived(parent, *path) != derived(parent, *path, "more")
    assert derived(parent, *path) != derived(UUID(int=parent.int ^ 1), *path)


def test_derived_ids_never_change_between_releases():
    # Intentions that were stored before an upgrade have to be met again after it.
    assert derived(UUID(int=1), "disk", 0) == UUID("a4d07fba-a498-5a62-a6f5-21eb2bbbd78a")
