"""Which class drives which kind of provider; loaded on demand."""

import gc
import sys
from collections.abc import Callable
from importlib import import_module
from typing import cast

from controlplane.domain.errors import Unsupported
from controlplane.domain.site import ProviderKind, SiteAccess
from drivers.contract import Driver

# Each class is called with one SiteAccess and answers an open driver (logging in may be lazy).
DRIVERS: dict[ProviderKind, str] = {
    ProviderKind.FAKE: "drivers.fake.driver:FakeDriver",
    ProviderKind.OPENNEBULA: "drivers.opennebula.driver:OpenNebulaDriver",
    ProviderKind.OPENSTACK: "drivers.openstack.driver:OpenStackDriver",
    ProviderKind.OVHCLOUD: "drivers.ovhcloud.driver:OvhcloudDriver",
    ProviderKind.PROXMOX: "drivers.proxmox.driver:ProxmoxDriver",
    ProviderKind.XCPNG: "drivers.xcpng.driver:XcpngDriver",
}
# Where an option of the site chooses among classes, a function does.
CHOOSERS: dict[ProviderKind, str] = {ProviderKind.FAKE: "drivers.fake.driver:open_fake"}


def driver_class(kind: ProviderKind) -> type[Driver]:
    """The class for `kind`; Unsupported when this installation has none."""
    if kind not in DRIVERS:
        raise Unsupported(
            f"there is no driver for provider {kind} here: choose one of {', '.join(DRIVERS)}"
        )
    return cast("type[Driver]", _load(kind, DRIVERS[kind]))


def _load(kind: ProviderKind, place: str) -> object:
    module, _, name = place.partition(":")
    new = module not in sys.modules
    try:
        found: object = getattr(import_module(module), name)
    except ImportError as e:
        raise Unsupported(
            f"the driver for {kind} is not installed: install fedctl[{kind}]", detail=str(e)
        ) from e
    if new:
        gc.freeze()  # an SDK stays as it is: the collector need not look at it each time
    return found


def connect(access: SiteAccess) -> Driver:
    """An open driver for the site; close it when done."""
    kind = access.provider
    chosen = _load(kind, CHOOSERS[kind]) if kind in CHOOSERS else driver_class(kind)
    return cast("Callable[[SiteAccess], Driver]", chosen)(access)
