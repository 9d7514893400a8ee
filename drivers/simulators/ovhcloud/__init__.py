"""A simulated pool of OVHcloud servers: the signed API, real bytes on disks, ssh into rescue."""

from drivers.simulators.ovhcloud.facts import FACTS
from drivers.simulators.ovhcloud.sim import Credentials, OvhSim

__all__ = ["FACTS", "Credentials", "OvhSim"]
