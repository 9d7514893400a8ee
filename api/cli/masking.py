"""Documents without what is secret in them."""

from collections.abc import Mapping
from urllib.parse import urlsplit

MASK = "***"
_SECRET = frozenset({"password", "passphrase", "secrets", "token", "userData"})


def masked(value: object) -> object:
    """The same, with a mask for each value that nobody but its owner may see."""
    if isinstance(value, Mapping):
        return {k: MASK if k in _SECRET and v else masked(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [masked(each) for each in value]
    return value


def masked_url(url: str) -> str:
    """The same without the password that it may carry."""
    password = urlsplit(url).password
    return url.replace(f":{password}@", f":{MASK}@", 1) if password else url
