"""Which control plane, as whom and where: flags, then environment, then context file."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import platformdirs

from controlplane.domain.errors import Invalid

DEFAULT_URL = "http://127.0.0.1:8700"


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One control plane, one token. `workspace` is where names without one are looked for."""

    url: str = DEFAULT_URL
    token: str = field(default="", repr=False)
    tenant: str = ""
    workspace: str = ""
    user: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Globals:
    """What was said before the command, or in the environment."""

    url: str | None = None
    token: str | None = None
    tenant: str | None = None
    context: str | None = None
    config: Path | None = None
    show_request: bool = False

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> "Globals":
        """From the program's own options, by their names."""
        return cls(**{each.name: said[each.name] for each in fields(cls) if each.name in said})


class Contexts:
    """The context file; it holds tokens, so only its owner reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.current, self.all = self._read()

    @classmethod
    def default(cls, given: Path | None = None) -> "Contexts":
        return cls(given or platformdirs.user_config_path("fedctl") / "contexts.json")

    def get(self, name: str) -> Context:
        if name not in self.all:
            known = ", ".join(sorted(self.all)) or "none; log in first (fedctl login URL)"
            raise Invalid(f"there is no context {name!r}; known contexts: {known}")
        return self.all[name]

    def present(self, name: str | None = None) -> Context:
        """The context of that name, or the one in use, or an empty one."""
        if name:
            return self.get(name)
        return self.all.get(self.current, Context())

    def chosen(self, said: Globals, workspace: str | None = None) -> Context:
        """The present context with what was said instead of what is filed."""
        url = said.url.rstrip("/") if said.url else None
        given = {"url": url, "token": said.token, "tenant": said.tenant, "workspace": workspace}
        return replace(
            self.present(said.context), **{name: value for name, value in given.items() if value}
        )

    def save(self, name: str, context: Context) -> None:
        self.all[name] = context
        self.current = name
        self._write()

    def use(self, name: str, *, workspace: str | None = None) -> Context:
        context = self.get(name)
        if workspace is not None:
            context = replace(context, workspace=workspace)
        self.save(name, context)
        return context

    def _read(self) -> tuple[str, dict[str, Context]]:
        try:
            found = json.loads(self.path.read_text())
            contexts = {name: Context(**each) for name, each in found["contexts"].items()}
            return str(found["current"]), contexts
        except FileNotFoundError:
            return "", {}
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise Invalid(
                f"the context file {self.path} cannot be read: mend it, or delete it and log in"
            ) from e

    def _write(self) -> None:
        """Replaces the file in one step, readable by its owner only."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        text = json.dumps(
            {"current": self.current, "contexts": {n: asdict(c) for n, c in self.all.items()}},
            indent=2,
        )
        fresh = self.path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        fresh.replace(self.path)
