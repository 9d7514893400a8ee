"""Each setting that takes effect, and where it came from."""

from dataclasses import dataclass

import typer

from api.cli.masking import MASK, masked_url
from api.cli.session import Session

_BY_SOURCE = {"COMMANDLINE": "flag --{}", "ENVIRONMENT": "environment FEDCTL_{}"}
_DEFAULT = "default"
_OF_CONTEXT = ("url", "token", "tenant", "workspace", "user")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """`origin` is a flag, the environment, the context file, or the default."""

    name: str
    value: str
    origin: str


def effective(ctx: typer.Context, session: Session) -> list[Setting]:
    """Flags come before the environment, that before the context file, that before defaults."""
    contexts = session.contexts
    chosen = str(ctx.find_root().params.get("context") or contexts.current)
    filed = contexts.all.get(chosen)
    file = f"context file, {chosen}"
    found = [
        _setting(ctx, "config", str(contexts.path), _DEFAULT),
        _setting(ctx, "context", chosen, "context file" if chosen else _DEFAULT),
    ]
    for name in _OF_CONTEXT:
        value = str(getattr(session.context, name))
        from_file = filed is not None and bool(getattr(filed, name))
        found.append(_setting(ctx, name, value, file if from_file else _DEFAULT))
    found.append(_setting(ctx, "output", session.form.value, _DEFAULT))
    return found


def _setting(ctx: typer.Context, name: str, value: str, unsaid: str) -> Setting:
    shown = MASK if name == "token" and value else masked_url(value)
    return Setting(name=name, value=shown, origin=_said(ctx, name) or unsaid)


def _said(ctx: typer.Context, name: str) -> str:
    """The flag or the variable that gave it; empty where none did."""
    for asked in (ctx, ctx.find_root()):
        source = asked.get_parameter_source(name)
        if source is not None and asked.params.get(name):
            form = _BY_SOURCE.get(source.name, "")
            return form.format(name.upper() if "FEDCTL" in form else name)
    return ""
