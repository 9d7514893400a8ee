"""Which control plane, as whom and where: flags, then environment, then context file."""

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

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
