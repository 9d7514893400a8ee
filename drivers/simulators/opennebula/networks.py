"""Virtual networks of a simulated oned, and the leases that nics hold on them."""

from ipaddress import IPv4Address

from drivers.simulators.opennebula import oned as one
from drivers.simulators.opennebula import views
from drivers.simulators.opennebula.images import paged, visible
from drivers.simulators.opennebula.oned import Network, Oned, Refusal, User, Vm
from drivers.simulators.opennebula.template import single


def pool(site: Oned, user: User, flag: int, start: int, end: int) -> str:
    rows = [n for n in site.networks.values() if n.uid == 0 or visible(user, n.uid, flag)]
    shown = "".join(views.network(site, each) for each in paged(rows, start, end))
    return f"<VNET_POOL>{shown}</VNET_POOL>"


def info(site: Oned, _user: User, number: int, _decrypt: bool = False) -> str:  # noqa: FBT001, FBT002  # the wire's shape
    if number not in site.networks:
        text = f"[one.vn.info] Error getting virtual network [{number}]."
        raise Refusal(one.NO_EXISTS, text, number)
    return views.network(site, site.networks[number])


def lease(site: Oned, call: str, vm: Vm, wish: dict[str, str]) -> dict[str, str]:
    """The nic as it is after it got a lease: of the MAC, of the address, or any that is free."""
    number = wish.get("NETWORK_ID", "")
    network = site.networks.get(int(number)) if number.isdecimal() else None
    if network is None:
        raise Refusal(one.INTERNAL, f"[{call}] Cannot get network with ID: {number}")
    for index, each in enumerate(network.ranges):
        for mac, address in _offered(each, wish):
            if mac not in network.leases:
                network.leases[mac] = vm.id
                nic = {**wish, "NETWORK": network.name, "MAC": mac, "AR_ID": str(index)}
                nic |= {"BRIDGE": f"onebr{network.id}", "VN_MAD": "bridge"}
                nic |= {"IP": address} if address else {}
                if gateway := single(network.template, "GATEWAY"):
                    nic["GATEWAY"] = gateway
                return nic
    asked = next((f"{k}: {wish[k]}" for k in ("MAC", "IP") if wish.get(k)), "")
    raise Refusal(
        one.INTERNAL, f"[{call}] Cannot get IP/MAC lease from virtual network {number}. {asked}"
    )


def release(site: Oned, nic: dict[str, str]) -> None:
    network = site.networks.get(int(nic["NETWORK_ID"]))
    if network is not None:
        network.leases.pop(nic.get("MAC", ""), None)


def _offered(each: dict[str, str], wish: dict[str, str]) -> list[tuple[str, str]]:
    """The (MAC, address) pairs of a range that fit a wish, in their order."""
    first, size = _number(each["MAC"]), int(each["SIZE"])
    base = int(IPv4Address(each["IP"])) if each["TYPE"] == "IP4" else None
    indices = range(size)
    if mac := wish.get("MAC"):
        indices = range(max(_number(mac) - first, 0), min(_number(mac) - first + 1, size))
    if address := wish.get("IP"):
        at = int(IPv4Address(address)) - base if base is not None else -1
        indices = range(at, at + 1) if at in indices else range(0)
    found = indices[: 1 << 12]  # nobody waits for more to be tried
    return [(_mac(first + at), "" if base is None else str(IPv4Address(base + at))) for at in found]


def _number(mac: str) -> int:
    return int(mac.replace(":", ""), 16)


def _mac(number: int) -> str:
    return ":".join(f"{number:012x}"[at : at + 2] for at in range(0, 12, 2))


def shop(number: int, name: str, cidr_base: str) -> Network:
    """A network with room for addresses of the site's choice, and for MACs that are brought."""
    return Network(
        id=number,
        uid=0,
        name=name,
        template={
            "NETWORK_ADDRESS": [cidr_base],
            "NETWORK_MASK": ["255.255.255.0"],
            "GATEWAY": [str(IPv4Address(cidr_base) + 1)],
        },
        ranges=[
            {
                "TYPE": "IP4",
                "IP": str(IPv4Address(cidr_base) + 10),
                "MAC": _mac(0x0200_0000_0000 + int(IPv4Address(cidr_base)) + 10),
                "SIZE": "200",
            },
            {"TYPE": "ETHER", "MAC": "02:fe:00:00:00:00", "SIZE": str(1 << 24)},
        ],
    )
