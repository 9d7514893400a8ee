"""Images: made from uploads, deleted when no volume still waits for their bytes."""

from controlplane.domain.errors import Conflict, Unsupported
from controlplane.domain.operation import Operation, OperationKind
from controlplane.domain.resource import Kind, Resource, ResourceKey, State
from controlplane.services.record import free, note, start
from controlplane.services.stored import Stored, living
from controlplane.services.volumes import source_image, user_of
from controlplane.services.wish import Caller, Granted, Wish
from controlplane.store.tx import Tx

_MANY = 100_000


class Images(Stored):
    kind = Kind.IMAGE

    def put(self, caller: Caller, key: ResourceKey, wish: Wish) -> Granted:
        """Labels and annotations may change; the spec never does."""
        now = self.clock.now()
        with self.store.begin() as tx:
            before = tx.resources.find(key)
            if before is None:
                raise Unsupported(
                    f"image {key.name} cannot be made from a block storage:"
                    f" upload a file (fedctl image upload FILE --name {key.name})"
                )
            if before.spec != wish.spec:
                raise Unsupported(
                    f"the spec of image {key.name} cannot be changed: upload another image"
                )
            granted = self.write(tx, key, wish, status={}, now=now)
            note(tx, caller, "put", key, now)
            return granted

    def delete(self, caller: Caller, key: ResourceKey, expected: int | None) -> Operation | None:
        now = self.clock.now()
        with self.store.begin() as tx:
            image = living(tx, key, expected)
            working = tx.operations.open_for(image.id)
            if image.state is State.DELETING and working is not None:
                return working
            free(tx, image.id, what=f"image {key.name}")
            waiting = _waiting_volume(tx, image)
            if waiting is not None:
                raise Conflict(
                    f"image {key.name} is still needed by block storage {waiting.key}, which no"
                    " instance has filled yet: delete that first"
                )
            resource = tx.resources.mark_deleting(image.id, now)
            note(tx, caller, "delete", key, now)
            return start(tx, caller, OperationKind.DELETE_IMAGE, resource, now=now)


def _waiting_volume(tx: Tx, image: Resource) -> Resource | None:
    """A block storage that is to be filled from `image` and has not been yet."""
    for volume in tx.resources.list(Kind.BLOCK_STORAGE, tenant=image.key.tenant, limit=_MANY):
        if source_image(volume.key, volume.spec) != image.key:
            continue
        user = user_of(tx, volume)
        if user is None or user.state in {State.PENDING, State.CREATING}:
            return volume
    return None
