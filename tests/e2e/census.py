"""What a simulated site has by its own books, whoever made it: no tag of ours is asked."""

from collections import Counter

from drivers.simulators.opennebula import OpenNebulaSim
from drivers.simulators.opennebula.oned import DONE
from drivers.simulators.openstack import OpenStackSim
from drivers.simulators.ovhcloud import OvhSim
from drivers.simulators.proxmox import ProxmoxSim
from drivers.simulators.sites import OPENNEBULA, OPENSTACK, OVHCLOUD, PROXMOX, XCPNG, Sites
from drivers.simulators.xcpng import XcpngSim

# The customer's word that a server is of the pool, and ours that it was wiped.
_STAY = {"fedctl-pool", "fedctl-leaving"}


def census(sites: Sites, site: str) -> dict[str, int]:
    """How many there are of each kind of thing, of which there are any."""
    count = {
        OPENNEBULA: lambda: _opennebula(sites.opennebula),
        OPENSTACK: lambda: _openstack(sites.openstack),
        OVHCLOUD: lambda: _ovhcloud(sites.ovhcloud),
        PROXMOX: lambda: _proxmox(sites.proxmox),
        XCPNG: lambda: _xcpng(sites.xcpng),
    }[site]
    return {kind: number for kind, number in count().items() if number}


def _opennebula(sim: OpenNebulaSim) -> Counter[str]:
    oned = sim.oned
    with oned.lock:
        return Counter(
            vms=sum(vm.state != DONE for vm in oned.vms.values()),
            images=len(oned.images),
            leases=sum(len(network.leases) for network in oned.networks.values()),
        )


def _openstack(sim: OpenStackSim) -> Counter[str]:
    kinds = ("server", "volume", "snapshot", "image", "port", "network")
    return Counter({kind: len(sim.world.all(kind)) for kind in kinds})


def _ovhcloud(sim: OvhSim) -> Counter[str]:
    estate = sim.estate
    with estate.lock:
        servers = tuple(estate.servers.values())
        return Counter(key for it in servers for key in it.tags if key not in _STAY) + Counter(
            it.runs for it in servers if it.runs != "power"
        )


def _proxmox(sim: ProxmoxSim) -> Counter[str]:
    node = sim.node
    with node.lock:
        held = tuple(node.live.values())
        return Counter(
            vms=len(node.vms),
            **{name: len(node.storages.volumes(name)) for name in node.storages.names()},
            files=len(node.exports()),
            scraps=sum(len(live.scraps) for live in held),
            exports=sum(len(live.exports) for live in held),
            timers=len(sim.timers()),
        )


def _xcpng(sim: XcpngSim) -> Counter[str]:
    pool = sim.pool
    with pool.lock:
        return Counter({cls: len(pool.tables[cls]) for cls in ("VM", "VDI", "VBD", "VIF")})
