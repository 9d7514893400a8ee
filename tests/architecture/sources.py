"""Our modules, as files and as names."""

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("controlplane", "drivers", "workflows", "api")


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    path: Path
    name: str
    text: str

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, str(self.path))

    def imports(self) -> set[str]:
        """Every module that this one names in an import, also inside functions."""
        found = set()
        for node in ast.walk(self.tree):
            match node:
                case ast.Import(names=names):
                    found |= {alias.name for alias in names}
                case ast.ImportFrom(module=str(module)):
                    found.add(module)
                case _:
                    pass
        return found


@cache
def modules(*packages: str) -> tuple[Module, ...]:
    """Every module below the packages (dotted names), in order of their paths."""
    paths = sorted(
        path for package in packages for path in (ROOT / package.replace(".", "/")).rglob("*.py")
    )
    return tuple(
        Module(
            path=path.relative_to(ROOT),
            name=".".join(path.relative_to(ROOT).with_suffix("").parts),
            text=path.read_text(encoding="utf-8"),
        )
        for path in paths
    )
