"""Failures keep apart what people, operators and programs read."""

import pickle

import pytest

from controlplane.domain.errors import SUPERSEDED, Conflict, FedctlError, Unavailable, superseded


def test_the_text_is_for_the_customer_and_the_detail_for_the_operator():
    error = Unavailable("site fra does not answer: ask again", detail="HTTP 502", reason="gone")
    assert str(error) == "site fra does not answer: ask again"
    assert (error.detail, error.reason) == ("HTTP 502", "gone")
    assert "HTTP 502" not in repr(error)


def test_superseded_tells_both_epochs_and_stops_without_retry():
    error = superseded("instance web-1", presented=3, found=5)
    assert isinstance(error, Conflict)
    assert error.reason == SUPERSEDED
    assert not error.retryable
    assert all(word in str(error) for word in ("web-1", "3", "5"))


@pytest.mark.parametrize("kind", FedctlError.__subclasses__())
def test_a_failure_survives_the_way_between_processes(kind: type[FedctlError]):
    error = kind("message", detail="detail", reason="reason")
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back), back.detail, back.reason) == (
        kind,
        "message",
        "detail",
        "reason",
    )
