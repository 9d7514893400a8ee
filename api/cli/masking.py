"""Documents without what is secret in them."""

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

MASK = "***"
_SECRET = frozenset({"password", "passphrase", "secrets", "token", "userData"})
_NAMES = "password|passwd|passphrase|secret|token|(?:api|access|private)[_-]?key"
_LOOKS_SECRET = tuple(
    re.compile(pattern, re.IGNORECASE | re.DOTALL)
    for pattern in (
        r"(?P<keep>)fedctl_[A-Za-z0-9_-]{43}(?![A-Za-z0-9_-])",
        r"(?P<keep>\b(?:bearer|basic) +)[\w.~+/=-]{8,}",
        r"(?P<keep>-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(?:-----END [A-Z ]*-----|$)",
        rf"(?P<keep>\w*(?:{_NAMES})\w*[\"']?\s*[=:]\s*)(?:\"[^\"]*\"|'[^']*'|[^\s\"',;&}}]+)",
        r"(?P<keep>://[^/\s:@]*:)[^/\s@]+(?=@)",
    )
)


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


def scrubbed(value: object) -> object:
    """The same, with a mask for what looks like a secret inside of any text."""
    if isinstance(value, str):
        for pattern in _LOOKS_SECRET:
            value = pattern.sub(rf"\g<keep>{MASK}", value)
        return value
    if isinstance(value, Mapping):
        return {k: scrubbed(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [scrubbed(each) for each in value]
    return value
