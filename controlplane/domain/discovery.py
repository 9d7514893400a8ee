"""A machine that a site shows and that nobody has given to us."""

from dataclasses import dataclass

from controlplane.domain.instance import Firmware, InstanceSeen, Traits


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovered:
    """As the site shows it; `seen` has epoch 0, and disks without a size where none is told.

    `held` is what keeps it from being touched just now, in the provider's own words.
    """

    seen: InstanceSeen
    firmware: Firmware
    traits: Traits
    held: str = ""
