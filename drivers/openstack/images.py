"""Staged images in Glance, under ids that follow from our artefact, so that no second is made.

Glance never gives an id twice, not even that of a deleted image. So an artefact has a row of ids,
and an image takes the first one that Glance does not know yet.
"""

from collections.abc import Iterable
from uuid import uuid5

from controlplane.domain.answer import Absent, Answer, Seen
from controlplane.domain.disk import DiskFormat, ImageSeen, ImageSource, ImageState
from controlplane.domain.errors import Busy, Conflict, Integrity, Invalid, Unsupported
from controlplane.domain.owner import OwnerTag
from drivers.contract import ImagePull, ImagePush
from drivers.openstack import mapping
from drivers.openstack.base import Site
from drivers.openstack.mapping import Payload

PATCH = "application/openstack-images-v2.1-json-patch"
TRIES = 100
ACCEPTED = 202
REFUSED = 400


class Images(Site, ImagePull, ImagePush):
    def find_image(self, owner: OwnerTag) -> Answer[ImageSeen]:
        image = self._image(owner)
        return Absent() if image is None else Seen(mapping.image(image))

    def _image(self, owner: OwnerTag) -> Payload | None:
        query = {"tag": mapping.mark(owner.artefact)}
        what = f"image {owner.artefact}"
        found = self._client.listing("image", "/images", "images", what=what, params=query)
        return next(iter(found), None)

    def pull_image(self, owner: OwnerTag, name: str, source: ImageSource) -> str:
        image = self._record(owner, name, source)
        if image["status"] != "queued" or image.get("os_glance_import_task"):
            return str(image["id"])
        wish = {"method": {"name": "web-download", "uri": source.url}}
        path, what = f"/images/{image['id']}/import", f"image {name}"
        # The SDK's own call does not look at the answer: nothing but 202 means that it begins.
        try:
            answer = self._client.call("image", "POST", path, wish, what=what, accept=(REFUSED,))
        except Conflict:  # a task that was asked for before has begun meanwhile
            return str(image["id"])
        if answer.status_code != ACCEPTED:
            if not image.get("os_glance_failed_import"):
                self._drop(image)
            raise Unsupported(
                f"{what}: site {self._client.site} does not fetch from this address: send the"
                " bytes instead",
                reason="pull-refused",
                detail=answer.text[:300],
            )
        return str(image["id"])

    def push_image(
        self, owner: OwnerTag, name: str, source: ImageSource, data: Iterable[bytes]
    ) -> str:
        image = self._record(owner, name, source)
        what = f"image {name}"
        if image["status"] in {"saving", "importing", "uploading"}:
            raise Busy(f"{what} at site {self._client.site} is being sent already: wait for that")
        if image["status"] == "queued":
            self._client.upload(f"/images/{image['id']}/file", data, what=what)
            image = self._client.get("image", f"/images/{image['id']}", "", what=what)
        seen = mapping.image(image)
        if seen.state is ImageState.FAILED:
            raise Integrity(
                f"{what} arrived at site {self._client.site} as other bytes than were sent"
                f" ({seen.why}): delete it and send it again"
            )
        return seen.ref

    def _record(self, owner: OwnerTag, name: str, source: ImageSource) -> Payload:
        """The record of the image, made once, compared when it is there."""
        self._named(name)
        if source.format not in self.limits.formats:
            raise Invalid(f"image {name}: site {self._client.site} takes no {source.format}")
        found = self._image(owner)
        if found is None:
            found = self._make_image(owner, name, source)
        self._guard(f"image {name}", owner, mapping.owner_in(found["tags"]))
        other = found.get(mapping.IMAGE_SHA512) != source.sha512 or found.get("name") != name
        if other or found.get("disk_format") != source.format.value:
            raise self._other_wish(f"image {name}")
        return self._stamp_image(found, owner)

    def _make_image(self, owner: OwnerTag, name: str, source: ImageSource) -> Payload:
        wish = {
            "name": name,
            "disk_format": source.format.value,
            "container_format": "bare",
            "visibility": "private",
            "min_disk": mapping.gib(source.size) if source.format is DiskFormat.QCOW2 else 0,
            "tags": mapping.image_tags(owner),
            mapping.IMAGE_SHA512: source.sha512,
        }
        what = f"image {name}"
        for number in range(TRIES):
            ident = str(uuid5(owner.artefact, f"image/{number}"))
            try:
                body = {"id": ident, **wish}
                return self._client.send("image", "POST", "/images", body, "", what=what)
            except Conflict:
                # Either a create whose answer was lost, or one that was deleted since.
                found = self._client.find("image", f"/images/{ident}", "", what=what)
                if found is not None:
                    return found
        raise Conflict(
            f"{what} at site {self._client.site} was deleted {TRIES} times: use another tag"
        )

    def _stamp_image(self, image: Payload, owner: OwnerTag) -> Payload:
        """Raise the stamp among the tags of a staged image, if it is lower."""
        what = f"image {image['name']}"
        if not self._guard(what, owner, mapping.owner_in(image["tags"])):
            return image
        return self._patched(image, "tags", mapping.image_tags(owner))

    def _patched(self, image: Payload, key: str, value: object) -> Payload:
        body = [{"op": "replace", "path": f"/{key}", "value": value}]
        path, what = f"/images/{image['id']}", f"image {image['name']}"
        headers = {"Content-Type": PATCH}
        self._client.call("image", "PATCH", path, body, what=what, headers=headers)
        return self._client.get("image", path, "", what=what)

    def delete_image(self, owner: OwnerTag) -> None:
        image = self._image(owner)
        if image is not None:
            self._guard(f"image {image['name']}", owner, mapping.owner_in(image["tags"]))
            self._drop(image)

    def _drop(self, image: Payload) -> None:
        path, what = f"/images/{image['id']}", f"image {image['name']}"
        self._client.call("image", "DELETE", path, what=what, accept=(404,))
