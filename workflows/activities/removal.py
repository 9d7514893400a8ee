"""How one object of each kind goes from its site."""

from controlplane.domain.answer import Absent, Answer
from controlplane.domain.artefact import ArtefactKind
from controlplane.domain.owner import OwnerTag
from drivers.contract import (
    DiskExport,
    Driver,
    ImagePull,
    ImagePush,
    Instances,
    Snapshots,
    Volumes,
    require,
)


def delete(
    driver: Driver, kind: ArtefactKind, tag: OwnerTag, anchor: str | None = None
) -> Answer[object]:
    """Ask for it to go, and what is seen of it then: Absent once it is gone."""
    answer: Answer[object]
    match kind:
        case ArtefactKind.INSTANCE:
            answer = require(driver, Instances).find(tag, anchor)
            if not isinstance(answer, Absent):
                require(driver, Instances).delete(tag)
                answer = require(driver, Instances).find(tag, anchor)
        case ArtefactKind.VOLUME:
            require(driver, Volumes).delete_volume(tag)
            answer = require(driver, Volumes).find_volume(tag)
        case ArtefactKind.IMAGE:
            images(driver).delete_image(tag)
            answer = images(driver).find_image(tag)
        case ArtefactKind.SNAPSHOT:
            require(driver, Snapshots).delete_snapshot(tag)
            answer = require(driver, Snapshots).find_snapshot(tag)
        case ArtefactKind.EXPORT:
            require(driver, DiskExport).release_export(tag)
            answer = require(driver, DiskExport).find_export(tag)
        case ArtefactKind.NIC:
            answer = Absent()
    return answer


def images(driver: Driver) -> ImagePull | ImagePush:
    """The facet that finds and deletes staged images, however they came in."""
    return driver if isinstance(driver, ImagePull) else require(driver, ImagePush)
