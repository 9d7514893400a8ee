"""A request as a curl line that makes it again; tokens and secrets are left out."""

import json as jsonlib
import shlex
from collections.abc import Mapping

import httpx

from api.cli.masking import masked, masked_url

_BEARER = '"Authorization: Bearer $FEDCTL_TOKEN"'  # the shell fills it in


def curl(
    method: str,
    url: str,
    *,
    json: object = None,
    params: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    piped: str = "",
    token: bool = True,
) -> str:
    """`piped` is a shell command that writes the body, where it is not JSON."""
    full = str(httpx.URL(url, params=params)) if params else url
    parts = ["curl", "-X", method, masked_url(full)]
    sent = {**(headers or {}), **({} if json is None else {"Content-Type": "application/json"})}
    for name, value in sent.items():
        parts += ["-H", f"{name}: {value}"]
    if json is not None:
        parts += ["-d", jsonlib.dumps(masked(json))]
    line = shlex.join(parts)
    line += f" -H {_BEARER}" if token else ""
    return f"{piped} | {line} --data-binary @-" if piped else line
