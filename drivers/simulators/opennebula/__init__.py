"""A simulated OpenNebula site: oned's XML-RPC, the datastores' files, and ssh to them."""

from drivers.simulators.opennebula.facts import FACTS
from drivers.simulators.opennebula.sim import Credentials, OpenNebulaSim

__all__ = ["FACTS", "Credentials", "OpenNebulaSim"]
