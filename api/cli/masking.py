"""Documents without what is secret in them."""

from collections.abc import Mapping

MASK = "***"
_SECRET = frozenset({"password", "passphrase", "secrets", "token", "userData"})


def masked(value: object) -> object:
    """The same, with a mask for each value that nobody but its owner may see."""
    if isinstance(value, Mapping):
        return {k: MASK if k in _SECRET and v else masked(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [masked(each) for each in value]
    return value
