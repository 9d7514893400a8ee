"""A simulated XCP-ng pool: XAPI's XML-RPC, raw disks over HTTP, and NBD."""

from drivers.simulators.xcpng.facts import FACTS
from drivers.simulators.xcpng.sim import Credentials, XcpngSim

__all__ = ["FACTS", "Credentials", "XcpngSim"]
