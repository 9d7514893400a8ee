"""The owner tag survives any provider that keeps text."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.errors import Invalid
from controlplane.domain.ids import ArtefactId, InstanceId, OperationId
from controlplane.domain.owner import OwnerTag

TAGS = st.builds(
    OwnerTag,
    artefact=st.uuids().map(ArtefactId),
    instance=st.uuids().map(InstanceId),
    operation=st.uuids().map(OperationId),
    epoch=st.integers(min_value=1, max_value=10**12),
)
ONE = OwnerTag(
    artefact=ArtefactId(UUID(int=1)),
    instance=InstanceId(UUID(int=2)),
    operation=OperationId(UUID(int=3)),
    epoch=4,
)


@given(TAGS)
def test_what_was_written_is_read_back(tag: OwnerTag):
    assert OwnerTag.parse(tag.text()) == tag


@given(TAGS)
def test_the_text_is_one_line_of_lower_case_ascii_of_known_length(tag: OwnerTag):
    text = tag.text()
    assert text.isascii()
    assert text.isprintable()
    assert text == text.lower()
    assert " " not in text
    assert len(text) == len(ONE.text()) - 1 + len(str(tag.epoch))


@given(TAGS, TAGS)
def test_different_tags_have_different_texts(one: OwnerTag, other: OwnerTag):
    assert (one.text() == other.text()) is (one == other)


@given(st.text(max_size=200))
def test_other_text_is_invalid(text: str):
    try:
        tag = OwnerTag.parse(text)
    except Invalid:
        return
    assert tag.text() == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "fedctl",
        ONE.text() + ".5",
        ONE.text() + "\n",
        ONE.text().upper(),
        ONE.text().replace("fedctl", "other"),
        ONE.text().removesuffix(".4"),
        ONE.text().removesuffix("4") + "-4",
        ONE.text().removesuffix("4") + "0",
        ONE.text().removesuffix("4") + "04",
        ONE.text().removesuffix("4") + "\u0664",
        ONE.text().replace(UUID(int=1).hex, str(UUID(int=1))),
        ONE.text().replace(UUID(int=2).hex, "{" + UUID(int=2).hex + "}"),
        ONE.text().replace(UUID(int=2).hex, "nobody"),
    ],
)
def test_what_text_never_writes_is_invalid(text: str):
    with pytest.raises(Invalid):
        OwnerTag.parse(text)
