"""A simulated OpenStack that speaks the real wire and keeps real bytes."""

from drivers.simulators.openstack.cloud import Knobs
from drivers.simulators.openstack.sim import Credentials, OpenStackSim

__all__ = ["Credentials", "Knobs", "OpenStackSim"]
