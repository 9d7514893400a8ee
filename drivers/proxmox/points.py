"""Points in time of a running VM's disks, which its QEMU keeps, and what changed between them.

A point is a marker file on the node (whose name is the owner tag and the VM), a scrap file, a node
and a backup job for each disk, and a dirty bitmap on each disk. All but the files are gone when the
VM's process is.
"""

import re
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from controlplane.domain.disk import DiskSource, ExportSeen, ExportStage, Mark
from controlplane.domain.errors import Conflict, Invalid, NotFound
from controlplane.domain.ids import ArtefactId, InstanceId
from controlplane.domain.owner import OwnerTag
from drivers.contract import Pausing
from drivers.proxmox import mapping
from drivers.proxmox.base import ProxmoxBase, Vm
from drivers.proxmox.qmp import (
    Live,
    LiveDisk,
    Qmp,
    bitmap_name,
    bitmaps_of,
    changes_name,
    node_name,
)
from drivers.proxmox.shell import SCRAPS, agent_command

_MARKER = re.compile(r"(fedctl\.[0-9a-f.]+)@(\d+)")
_THAWS_AFTER, _THAWS_AGAIN = 2, 10  # seconds after a guest went on
_EXPORT = re.compile(r"(fedctl\.[0-9a-f.]+)_(\d+)_([0-9a-f]{32}|0)(?:_([0-9a-f]{32}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A point's marker, with the newest epoch that was stamped on it."""

    owner: OwnerTag
    vmid: int

    @property
    def file(self) -> str:
        return f"{SCRAPS}/{self.owner.text()}@{self.vmid}"

    @classmethod
    def parse(cls, name: str) -> "Point | None":
        match = _MARKER.fullmatch(name)
        try:
            return match and cls(owner=OwnerTag.parse(match[1]), vmid=int(match[2]))
        except Invalid:
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class PointExport:
    """An export of a point's disk number `disk`; `since`: the point changes are told from.

    `point` is the one that is exported, None where no changes are told.
    """

    owner: OwnerTag
    disk: int
    since: ArtefactId | None
    point: ArtefactId | None

    def text(self) -> str:
        since = self.since.hex if self.since else "0"
        until = f"_{self.point.hex}" if self.point else ""
        return f"{self.owner.text()}_{self.disk}_{since}{until}"

    @property
    def bitmap(self) -> str | None:
        """What tells the changes."""
        if self.since is None:
            return None
        if self.point is None:  # of an export that an earlier version made
            return bitmap_name(self.since)
        return changes_name(self.since, self.point)

    @classmethod
    def parse(cls, name: str) -> "PointExport | None":
        match = _EXPORT.fullmatch(name)
        try:
            return match and cls(
                owner=OwnerTag.parse(match[1]),
                disk=int(match[2]),
                since=None if match[3] == "0" else ArtefactId(UUID(hex=match[3])),
                point=ArtefactId(UUID(hex=match[4])) if match[4] else None,
            )
        except Invalid:
            return None


def scrap_file(point: ArtefactId, disk: int) -> str:
    return f"{SCRAPS}/{node_name(point, disk)}.qcow2"


def socket_of(vmid: int) -> str:
    """Where the VM's QEMU serves what we let it export."""
    return f"/run/fedctl/live-{vmid}.sock"


def _timer(vm: Vm) -> str:
    """The unit that lets a paused VM go on when nobody else does."""
    return f"fedctl-resume-{vm.vmid}"


def _thaw(vm: Vm) -> str:
    """The unit that thaws the file systems of a guest when nobody else does."""
    return f"fedctl-thaw-{vm.vmid}"


def marked(mark: Mark) -> ArtefactId | None:
    """The point that a mark of ours names."""
    match = re.fullmatch(r"\d+/fedctl([0-9a-f]{32})", mark.text)
    return ArtefactId(UUID(hex=match[1])) if match else None


class ProxmoxPoints(ProxmoxBase, Pausing):
    # -- standing still ------------------------------------------------------------------------

    def pause(self, owner: OwnerTag, within: timedelta) -> bool:
        vm = self._mine(owner)
        if self._status(vm)["status"] != "running":
            raise Conflict(f"VM {vm.vmid} at {self.site} is off: start it before pausing it")
        vm = self._stamped(vm, owner)
        # First: should we die now, the guest was not stopped or goes on by itself.
        seconds = max(round(within.total_seconds()), 1)
        self._shell.run_later(_timer(vm), seconds, "qm", "resume", str(vm.vmid))
        with self._qmp(vm) as qmp:
            stands = qmp.stands_still()
        if stands:
            return self._shell.runs_later(_thaw(vm))
        frozen = self._freeze(vm, seconds + _THAWS_AFTER)
        with self._qmp(vm) as qmp:
            qmp.stop()
        return frozen

    def _freeze(self, vm: Vm, seconds: int) -> bool:
        """Whether the guest's agent froze its file systems; else they are as before.

        The node thaws them after `seconds`, whoever died: that stands first, and stays when nobody
        could tell what the agent did.
        """
        if not self._has_agent(vm):
            return False
        self._shell.run_later(_thaw(vm), seconds, *agent_command(vm.vmid, "fsfreeze-thaw"))
        if self._shell.ask_agent(vm.vmid, "fsfreeze-freeze"):
            return True
        if self._shell.ask_agent(vm.vmid, "fsfreeze-thaw"):
            self._shell.run_no_more(_thaw(vm))
        return False

    @staticmethod
    def _has_agent(vm: Vm) -> bool:
        enabled = str(vm.config.get("agent", "0")).partition(",")[0]
        return enabled.removeprefix("enabled=") == "1"

    def keep_paused(self, owner: OwnerTag) -> None:
        vm = self._stamped(self._mine(owner), owner)
        self._shell.run_no_more(_timer(vm))
        self._shell.run_no_more(_thaw(vm))
        went_on = self._status(vm)["status"] != "running"
        if not went_on:
            with self._qmp(vm) as qmp:
                went_on = not qmp.stands_still()
        if went_on:
            raise Conflict(
                f"VM {vm.vmid} at {self.site} went on since it was paused (its time limit passed,"
                " or somebody resumed it): what was read of it is not its last state, copy it again"
            )

    def resume(self, owner: OwnerTag) -> None:
        vm = self._stamped(self._mine(owner), owner)
        if self._status(vm)["status"] == "running":
            agent = self._has_agent(vm)
            if agent:
                # Should its agent not answer at once.
                self._shell.run_later(
                    _thaw(vm), _THAWS_AGAIN, *agent_command(vm.vmid, "fsfreeze-thaw")
                )
            with self._qmp(vm) as qmp:
                qmp.go_on()
            if agent and self._shell.ask_agent(vm.vmid, "fsfreeze-thaw"):
                self._shell.run_no_more(_thaw(vm))
        self._shell.run_no_more(_timer(vm))

    # -- points --------------------------------------------------------------------------------

    def _points(self) -> list[Point]:
        """Every point that a marker tells of, each with its newest stamp."""
        newest: dict[ArtefactId, Point] = {}
        for point in filter(None, map(Point.parse, self._shell.scraps())):
            known = newest.get(point.owner.artefact)
            if known is None or known.owner.epoch < point.owner.epoch:
                newest[point.owner.artefact] = point
        return list(newest.values())

    def _point(self, artefact: ArtefactId) -> Point | None:
        if not self._shell.known:
            return None
        return next((p for p in self._points() if p.owner.artefact == artefact), None)

    def _can_point(self, vm: Vm) -> bool:
        return self._shell.known and self._status(vm)["status"] == "running"

    def _take(self, owner: OwnerTag, vm: Vm, known: Point | None) -> None:
        """Make what of the point is not there yet; the marker stands first."""
        if known is None or known.owner.epoch < owner.epoch:
            point = Point(owner=owner, vmid=vm.vmid)
            self._shell.make_scrap_folder()
            self._shell.run("touch", point.file)
            if known is not None:
                self._shell.run("rm", "-f", known.file)
        with self._qmp(vm) as qmp:
            live = self._live(qmp, vm)
            if self._stands(owner.artefact, live):
                return
            for number, disk in enumerate(live.disks):
                node, file = node_name(owner.artefact, number), scrap_file(owner.artefact, number)
                if node not in live.nodes:
                    self._shell.run("qemu-img", "create", "-f", "qcow2", file, str(disk.size))
                    qmp.add_scrap(node, file, disk)
            qmp.take_point(owner.artefact, live.disks)

    @staticmethod
    def _stands(point: ArtefactId, live: Live) -> bool:
        return all(node_name(point, number) in live.jobs for number in range(len(live.disks)))

    def _point_stands(self, point: Point) -> bool | None:
        """Whether its QEMU still keeps it; None when that process is gone."""
        vm = self._vm_of(point)
        if vm is None:
            return None
        with self._qmp(vm) as qmp:
            live = self._live(qmp, vm)
        if self._stands(point.owner.artefact, live):
            return True
        names = {node_name(point.owner.artefact, n) for n in range(len(live.disks))}
        return None if not names & live.nodes else False

    def _give_up(self, owner: OwnerTag, point: Point) -> None:
        """Take the next step to make it go; all of it where its QEMU is gone already."""
        vm = self._vm_of(point)
        artefact = owner.artefact
        if vm is not None:
            with self._qmp(vm) as qmp:
                live = self._live(qmp, vm)
                if self._undone(qmp, artefact, live):
                    return
            files = [scrap_file(artefact, number) for number in range(len(live.disks))]
        else:
            prefix = node_name(artefact, 0).removesuffix("0")
            files = [f"{SCRAPS}/{n}" for n in self._shell.scraps() if n.startswith(prefix)]
        markers = [
            f"{SCRAPS}/{name}"
            for name in self._shell.scraps()
            if (other := Point.parse(name)) and other.owner.artefact == artefact
        ]
        self._shell.run("rm", "-f", *files, *markers)

    @staticmethod
    def _undone(qmp: Qmp, point: ArtefactId, live: Live) -> bool:
        """Whether something was still to be told to stop, which takes QEMU a moment."""
        names = {number: node_name(point, number) for number in range(len(live.disks))}
        running = [name for name in names.values() if name in live.jobs]
        for name in running:
            qmp.cancel_job(name)
        if running:
            return True
        for number, name in names.items():
            if name in live.nodes:
                qmp.drop_scrap(name)
            for bitmap in bitmaps_of(point, live.disks[number].bitmaps):
                qmp.drop_bitmap(live.disks[number].node, bitmap)
        return False

    # -- exports of points ---------------------------------------------------------------------

    def _show_point(
        self, owner: OwnerTag, source: DiskSource, since: Mark | None, point: Point
    ) -> ExportSeen:
        vm = self._vm_of(point)
        if vm is None:
            raise NotFound(f"{point.owner.artefact} at {self.site} went with its VM: take another")
        number = self._number(vm, source.volume)
        with self._qmp(vm) as qmp:
            live = self._live(qmp, vm)
            disk, node = live.disks[number], node_name(point.owner.artefact, number)
            if node not in live.jobs:
                raise NotFound(f"{point.owner.artefact} at {self.site} is gone: take another")
            mark, of = None if since is None else marked(since), point.owner.artefact
            told = mark if mark is not None and changes_name(mark, of) in disk.bitmaps else None
            wish = PointExport(owner=owner, disk=number, since=told, point=of if told else None)
            for other in self._exported(live):
                if other.owner.artefact == owner.artefact and other != wish:
                    self._not_late(owner, other.owner)
                    qmp.drop_export(other.text())
            if wish.text() not in live.exports:
                self._shell.make_run_folder()
                qmp.serve(socket_of(vm.vmid))
                bitmap = (disk.node, wish.bitmap) if wish.bitmap else None
                qmp.export(wish.text(), node, bitmap)
        return shown(wish, disk)

    def _point_export(self, owner: OwnerTag) -> tuple[Vm, PointExport, LiveDisk] | None:
        """The export of a point under this tag, on a VM that has points of its instance."""
        for vm, live in self._with_points(owner.instance):
            for export in self._exported(live):
                if export.owner.artefact == owner.artefact:
                    return vm, export, live.disks[export.disk]
        return None

    def _point_exports(self) -> list[PointExport]:
        return [export for _, live in self._with_points() for export in self._exported(live)]

    def _with_points(self, of: InstanceId | None = None) -> list[tuple[Vm, Live]]:
        """Running VMs that have points (of one instance, or any), and what their QEMUs hold."""
        found: dict[int, tuple[Vm, Live]] = {}
        for point in self._points() if self._shell.known else ():
            wanted = of in {None, point.owner.instance} and point.vmid not in found
            vm = self._vm_of(point) if wanted else None
            if vm is not None:
                with self._qmp(vm) as qmp:
                    found[vm.vmid] = (vm, self._live(qmp, vm))
        return list(found.values())

    @staticmethod
    def _exported(live: Live) -> list[PointExport]:
        return list(filter(None, map(PointExport.parse, live.exports)))

    def _drop_point_export(self, vm: Vm, export: PointExport) -> None:
        with self._qmp(vm) as qmp:
            qmp.drop_export(export.text())

    # -- inside --------------------------------------------------------------------------------

    def _vm_of(self, point: Point) -> Vm | None:
        """The VM of a point while it runs."""
        vm = self._read(self._node(), point.vmid)
        return vm if vm is not None and self._status(vm)["status"] == "running" else None

    def _qmp(self, vm: Vm) -> Qmp:
        return self._shell.qmp(vm.vmid)

    @staticmethod
    def _live(qmp: Qmp, vm: Vm) -> Live:
        return qmp.live([slot for slot, _ in mapping.disks(vm.config)])

    def _number(self, vm: Vm, volume: str) -> int:
        for number, (_, disk) in enumerate(mapping.disks(vm.config)):
            if disk.volume == volume:
                return number
        raise NotFound(f"VM {vm.vmid} at {self.site} has no disk {volume}: look again")


def shown(export: PointExport, disk: LiveDisk) -> ExportSeen:
    """What is to be seen of an export that stands."""
    return ExportSeen(
        stage=ExportStage.READY,
        size=disk.size,
        epoch=export.owner.epoch,
        changed_only=export.since is not None,
    )
