"""The map of modules in ARCHITECTURE.md, from their first lines: `python -m tests.architecture.module_map`."""

import ast
from itertools import groupby

from tests.architecture.sources import PACKAGES, ROOT, Module, modules

PLACE = ROOT / "ARCHITECTURE.md"
BEGIN = (
    "<!-- map: made by `python -m tests.architecture.module_map` from the modules' first lines -->"
)
END = "<!-- end of map -->"


def text() -> str:
    """A heading for each folder, a line for each module that holds code."""
    holding = [m for m in modules(*PACKAGES) if m.path.name != "__init__.py"]
    holding.sort(key=lambda m: (m.path.parent.as_posix(), m.path.name))
    lines = []
    for folder, inside in groupby(holding, key=lambda m: m.path.parent):
        lines += [f"### {folder.as_posix()}/", ""]
        lines += [f"- `{m.path.name}` {_first_line(m)}" for m in inside]
        lines.append("")
    return "\n".join(lines)


def parts() -> tuple[str, str, str]:
    """ARCHITECTURE.md before, inside and after the map."""
    before, _, rest = PLACE.read_text(encoding="utf-8").partition(BEGIN)
    inside, _, after = rest.partition(END)
    return before, inside, after


def _first_line(module: Module) -> str:
    return (ast.get_docstring(module.tree) or "").split("\n")[0]


if __name__ == "__main__":
    before, _, after = parts()
    PLACE.write_text(f"{before}{BEGIN}\n\n{text()}\n{END}{after}", encoding="utf-8")
