"""Which fedctl this is."""

from importlib.metadata import PackageNotFoundError, version

_UNINSTALLED = "0+checkout"


def fedctl_version() -> str:
    """The installed version; a checkout that was not installed says so."""
    try:
        return version("fedctl")
    except PackageNotFoundError:
        return _UNINSTALLED
