"""Disks that are read and written through a socket of another host."""

from drivers.disks.nbd import NbdConnection
from drivers.disks.nbd_disk import NbdReader, NbdWriter
from drivers.disks.ssh import Forward


class TunnelReader(NbdReader):
    """A reader that takes its tunnel with it."""

    def __init__(self, connection: NbdConnection, forward: Forward) -> None:
        super().__init__(connection)
        self._forward = forward

    def close(self) -> None:
        super().close()
        self._forward.close()


class TunnelWriter(NbdWriter):
    """A writer that takes its tunnel with it."""

    def __init__(self, connection: NbdConnection, forward: Forward) -> None:
        super().__init__(connection)
        self._forward = forward

    def close(self) -> None:
        super().close()
        self._forward.close()
