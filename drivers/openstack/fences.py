"""Servers that cannot start, and what servers print."""

import re
from datetime import UTC, datetime

from controlplane.domain.errors import Conflict, NotFound
from controlplane.domain.fence import FenceLevel, FenceProof
from controlplane.domain.instance import Power
from controlplane.domain.owner import OwnerTag
from drivers.contract import ConsoleLog, Fencing
from drivers.openstack import mapping
from drivers.openstack.servers import Servers

CONSOLE_LINES = 500
FIRMWARE = re.compile(
    r"^\W*$|SeaBIOS|iPXE|SYSLINUX|GRUB|BdsDxe|Booting from|boot failed|no bootable device"
    r"|no boot sector|boot disk",
    re.IGNORECASE,
)
CONSOLE_BYTES = 64 * 1024


class FencedServers(Servers, Fencing, ConsoleLog):
    def fence(self, owner: OwnerTag) -> FenceProof:
        """Nova starts nothing that is off by itself; the lock keeps everybody else from it."""
        server = self._ours(owner)
        what = f"instance {server['name']} at site {self._client.site}"
        self._idle(server)
        if mapping.power(server) is not Power.OFF:
            raise Conflict(f"{what} is not stopped: stop it before it is fenced")
        if not server.get("locked"):
            self._act(server, {"lock": None})
        if mapping.FENCED not in server["tags"]:
            self._tag(server, mapping.FENCED)
        return self.verify_fence(owner)

    def verify_fence(self, owner: OwnerTag) -> FenceProof:
        server = self._present(owner)
        known = mapping.server_owner(server)
        if not mapping.is_fenced(server) or mapping.power(server) is not Power.OFF:
            raise Conflict(
                f"instance {server['name']} at site {self._client.site} could run: it is not"
                " fenced, fence it again",
                reason="not-fenced",
            )
        return FenceProof(
            level=FenceLevel.CANNOT_START,
            observer=f"nova of site {self._client.site}: locked and off",
            epoch=known.epoch if known else owner.epoch,
            at=datetime.now(UTC),
        )

    def unfence(self, owner: OwnerTag) -> None:
        server = self._ours(owner)
        if mapping.FENCED in server["tags"]:
            if server.get("locked"):
                self._act(server, {"unlock": None})
            self._untag(server, mapping.FENCED)

    # Listening.

    def console_log(self, owner: OwnerTag) -> str:
        """Empty before the first start for its owner: what the site did by itself is not told."""
        server = self._present(owner)
        tags = server.get("tags") or ()
        if mapping.NEW in tags or (mapping.FRESH in tags and mapping.power(server) is Power.OFF):
            return ""
        body = {"os-getConsoleOutput": {"length": CONSOLE_LINES}}
        path, what = f"/servers/{server['id']}/action", f"console of {server['name']}"
        try:
            answer = self._client.send("compute", "POST", path, body, "", what=what)
        except NotFound:  # Nova's word for a server that is off
            return ""
        text = str(answer.get("output") or "")
        return text.encode()[-CONSOLE_BYTES:].decode(errors="ignore")

    def probe_boot(self, owner: OwnerTag) -> str:
        """The lines since the last start, without those that firmware prints on any disk."""
        lines = self.console_log(owner).splitlines()
        return "\n".join(line for line in lines if not FIRMWARE.search(line))
