"""A simulated Proxmox VE site: its HTTPS API, its ssh, its disks."""

from drivers.simulators.proxmox.facts import FACTS
from drivers.simulators.proxmox.site import Credentials, ProxmoxSim

__all__ = ["FACTS", "Credentials", "ProxmoxSim"]
