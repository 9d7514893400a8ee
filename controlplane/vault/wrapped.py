"""Wrapped keys in the store and its replica: which are missing, or do not check, and why."""

from collections.abc import Collection, Iterable, Iterator

from controlplane.domain.errors import FedctlError, Integrity, NotFound
from controlplane.vault.ports import KeyDocuments, ObjectStore

KEYS = "keys"
_TENANTS = f"{KEYS}/tenant/"


def tenants_first(names: Iterable[str]) -> list[str]:
    """In an order in which a key comes after the one that it is wrapped with."""
    return sorted(names, key=lambda name: (not name.startswith(_TENANTS), name))


def doubtful(
    documents: KeyDocuments, objects: ObjectStore, replica: ObjectStore | None
) -> Iterator[tuple[str, str | None]]:
    """Each wrapped key of the store, the replica and the records, and what is wrong with it."""
    there = _there(replica)
    for name in tenants_first({*objects.names(KEYS), *documents.names(), *there}):
        try:
            documents.check(name, objects.get(name))
        except Integrity as e:
            yield name, str(e)
        except NotFound:
            yield name, f"it is missing from the store; {_copy(documents, replica, name)}"
        else:
            yield name, None


def _there(replica: ObjectStore | None) -> Collection[str]:
    """Nothing where it does not answer: that is told of each key that is missing."""
    try:
        return set(replica.names(KEYS)) if replica is not None else ()
    except FedctlError:
        return ()


def _copy(documents: KeyDocuments, replica: ObjectStore | None, name: str) -> str:
    if replica is None:
        return "there is no replica that might have it"
    try:
        documents.check(name, replica.get(name))
    except NotFound:
        return "the replica does not have it either"
    except Integrity as e:
        return f"the replica's cannot be verified and is not put back: {e}"
    except FedctlError as e:
        return f"the replica does not answer: {e}"
    return "the replica has it: the worker's next round puts it back"
