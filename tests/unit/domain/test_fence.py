"""How sure a fence is, compared."""

from itertools import product

import pytest

from controlplane.domain.fence import FenceLevel


@pytest.mark.parametrize(("one", "other"), list(product(FenceLevel, repeat=2)))
def test_levels_are_ordered_as_they_are_listed(one: FenceLevel, other: FenceLevel):
    order = list(FenceLevel)
    assert one.at_least(other) is (order.index(one) >= order.index(other))


def test_a_copy_that_cannot_start_is_surer_than_one_that_is_isolated():
    assert FenceLevel.CANNOT_START.at_least(FenceLevel.ISOLATED)
    assert not FenceLevel.ISOLATED.at_least(FenceLevel.CANNOT_START)
    assert FenceLevel.WITNESSED.at_least(FenceLevel.CANNOT_START)
    assert FenceLevel.ISOLATED.at_least(FenceLevel.REPORTED)
