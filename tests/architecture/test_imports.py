"""Who may import whom, as pyproject.toml lays it down."""

import subprocess
import sys

from tests.architecture.sources import ROOT


def test_no_import_goes_against_the_layers():
    # Two seconds or more: the whole import graph is built.
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command as c; c(['--no-cache'])",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert run.returncode == 0, run.stdout + run.stderr
