"""Opened images at rest, so that a site's next request need not open its image again."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

from controlplane.domain.disk import BlockReader, DiskFormat
from controlplane.domain.errors import Integrity
from controlplane.domain.placement import Served
from drivers.disks.image import image_file
from drivers.disks.raw import ByteSource

_AT_REST = 4


class Shelf:
    """Each image is with one request at a time; a few stay open between requests."""

    def __init__(self, open_disk: Callable[[Served], BlockReader]) -> None:
        self._open = open_disk
        self._lock = Lock()
        self._resting: OrderedDict[int, tuple[Served, ByteSource]] = OrderedDict()
        self._number = 0
        self._closed = False

    @contextmanager
    def image(self, served: Served) -> Iterator[ByteSource]:
        image = self.take(served)
        try:
            yield image
        finally:
            self.give_back(served, image)

    def take(self, served: Served) -> ByteSource:
        """An open image; give it back."""
        with self._lock:
            for number, (whose, image) in reversed(self._resting.items()):
                if whose == served:
                    del self._resting[number]
                    return image
        image = image_file(self._open(served), DiskFormat(served.format))
        if image.size != served.length:
            image.close()
            raise Integrity(
                f"disk {served.disk} of recovery point {served.point} makes an image of"
                f" {image.size} bytes, not the {served.length} that were announced"
            )
        return image

    def give_back(self, served: Served, image: ByteSource) -> None:
        over: list[ByteSource] = []
        with self._lock:
            self._number += 1
            self._resting[self._number] = (served, image)
            while len(self._resting) > (0 if self._closed else _AT_REST):
                over.append(self._resting.popitem(last=False)[1][1])
        for other in over:
            other.close()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            resting = [image for _, image in self._resting.values()]
            self._resting.clear()
        for image in resting:
            image.close()
