"""Images at a fake site: fetched by it or sent to it, and disks filled from them."""

from collections.abc import Iterable
from hashlib import sha256

from controlplane.domain.answer import Absent, Answer, Seen
from controlplane.domain.disk import DiskFormat, ImageSeen, ImageSource, ImageState
from controlplane.domain.errors import Conflict, FedctlError, Integrity, Invalid, Unsupported
from controlplane.domain.owner import OwnerTag
from drivers.contract import ImagePull, ImagePush
from drivers.fake.base import FakeBase
from drivers.fake.disk import FakeDisk
from drivers.fake.qcow2 import decoded
from drivers.fake.site import FakeImage, FakeSite, by_ref


class FakeImages(FakeBase, ImagePull, ImagePush):
    def pull_image(self, owner: OwnerTag, name: str, source: ImageSource) -> str:
        with self._call("pull_image", owner, goes_on=True) as site:
            image, fresh = self._staged(site, owner, name, source)
            site.images[owner.artefact] = image
        if fresh:
            # Outside of the lock: the far end may be slow, and other threads use this site.
            try:
                _fill(image, site.fetch(source))
            except Exception as e:  # noqa: BLE001  # a site reports any failed fetch on the image
                image.why = f"fetch failed: {e}"
        self._end("pull_image")
        return image.ref

    def push_image(
        self, owner: OwnerTag, name: str, source: ImageSource, data: Iterable[bytes]
    ) -> str:
        with self._call("push_image", owner, goes_on=True) as site:
            image, _ = self._staged(site, owner, name, source)
            site.images[owner.artefact] = image
        if image.state is not ImageState.READY:
            image.state, image.why = ImageState.WORKING, ""
            _fill(image, data)
        self._end("push_image")
        return image.ref

    def find_image(self, owner: OwnerTag) -> Answer[ImageSeen]:
        with self._call("find_image", owner) as site:
            if stale := site.stale():
                return stale
            image = site.images.get(owner.artefact)
            working = image is not None and not image.settled()
            if image is None:
                image = site.lingering(owner, FakeImage)
                working = True
            if image is None:
                return Absent()
            return Seen(
                ImageSeen(
                    ref=image.ref,
                    state=ImageState.WORKING if working else image.state,
                    epoch=image.epoch,
                    length=image.source.length,
                    why=image.why,
                )
            )

    def delete_image(self, owner: OwnerTag) -> None:
        with self._call("delete_image", owner) as site:
            if image := site.images.get(owner.artefact):
                image.stamp(owner)
                del site.images[owner.artefact]
                site.ghost(image)

    def _staged(
        self, site: FakeSite, owner: OwnerTag, name: str, source: ImageSource
    ) -> tuple[FakeImage, bool]:
        if image := site.images.get(owner.artefact):
            # The url is a way to the bytes, not the wish: a retry may come with a new token in it.
            if (image.name, image.source.sha256) != (name, source.sha256):
                raise self._other_wish(image.ref)
            image.stamp(owner)
            return image, False
        self._named(name)
        if source.format not in self.limits.formats:
            raise Unsupported(f"site {site.name} takes no {source.format} images: convert it")
        site.ghosts.pop(owner.artefact, None)
        image = FakeImage(
            owner=owner,
            epoch=owner.epoch,
            ref=f"img-{site.number()}",
            settling=site.settle,
            name=name,
            source=source,
        )
        return image, True


def _fill(image: FakeImage, data: Iterable[bytes]) -> None:
    """Take in the file; the image is READY or FAILED afterwards, whatever happens."""
    try:
        image.disk = _taken(image.source, data)
    except FedctlError as e:
        image.why = str(e)
        raise
    finally:
        image.state = ImageState.FAILED if image.disk is None else ImageState.READY


def _taken(source: ImageSource, data: Iterable[bytes]) -> FakeDisk:
    """The disk in the file's bytes, once their digest is as promised."""
    hasher = sha256()
    file = FakeDisk(size=source.length)
    offset = 0
    for part in data:
        hasher.update(part)
        if offset + len(part) > source.length:
            raise Integrity(f"more than the promised {source.length} bytes came: stop and look")
        file.write(offset, part)
        offset += len(part)
    if hasher.hexdigest() != source.sha256:
        raise Integrity(f"{offset} bytes came with another digest than promised: stop and look")
    match source.format:
        case DiskFormat.RAW:
            return file
        case DiskFormat.QCOW2 | DiskFormat.QCOW2_ZSTD:
            return decoded(file)
        case DiskFormat.VHD:
            raise Unsupported("no site of this kind takes VHD: convert it")


def filled(site: FakeSite, image: str | None, size: int) -> FakeDisk:
    """A disk of `size` bytes with the image's content at its beginning, or empty."""
    if image is None:
        return FakeDisk(size=size)
    found = by_ref(site.images, image, "image")
    if found.disk is None or found.settling:
        raise Conflict(f"image {image} at {site.name} is not ready: wait for it")
    if found.disk.size > size:
        raise Invalid(
            f"image {image} holds a disk of {found.disk.size} bytes; {size} are too few for it"
        )
    return found.disk.copy(size=size)
