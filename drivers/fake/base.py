"""A connection to a fake site: logging in, listing, and the frame around every call."""

from collections.abc import Iterator
from contextlib import contextmanager

from controlplane.domain.answer import Absent, Answer, Seen
from controlplane.domain.artefact import Found
from controlplane.domain.errors import Conflict, Denied, Invalid, Unavailable
from controlplane.domain.instance import Power
from controlplane.domain.owner import OwnerTag
from controlplane.domain.site import Catalogue, Health, Limits, QuotaSeen, SiteAccess
from drivers.contract import Networks, Quota
from drivers.fake.site import FakeInstance, FakeNetwork, FakeSite, fake_site


class FakeBase(Quota, Networks):
    limits: Limits

    def __init__(self, access: SiteAccess) -> None:
        self._access = access
        self._site = fake_site(access.endpoint)
        self._closed = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._access.endpoint!r})"

    @contextmanager
    def _call(
        self, method: str, owner: OwnerTag | None = None, *, goes_on: bool = False
    ) -> Iterator[FakeSite]:
        """One call at the site: logged in, alone, and as faulty as a test asked for.

        A call that `goes_on` after the block ends with `_end` of its own.
        """
        site = self._site
        with site.lock:
            if self._closed:
                raise Unavailable(f"the connection to {site.name} is closed: open another")
            if site.refusing is not None:
                raise site.refusing
            if site.down:
                raise Unavailable(f"site {site.name} does not answer: ask again later")
            if site.token is not None and self._access.secrets.get("token") != site.token:
                raise Denied(f"site {site.name} refused the token: register it anew")
            site.calls.append((method, owner.artefact if owner else None))
            site.raise_due(method, before_effect=True)
            yield site
            if not goes_on:
                self._end(method)

    def _end(self, method: str) -> None:
        with self._site.lock:
            self._site.raise_due(method, before_effect=False)

    def _named(self, name: str) -> None:
        if not 1 <= len(name) <= self.limits.name_length:
            raise Invalid(
                f"name {name[:20]!r} has {len(name)} characters; site {self._site.name} takes"
                f" 1 to {self.limits.name_length}: shorten it"
            )

    def _rounded(self, size: int) -> int:
        """`size` as the site makes it: up to the next whole step."""
        step = self.limits.disk_step
        if not 0 < size <= self.limits.disk_max:
            raise Invalid(f"a disk of {size} bytes cannot be; at most {self.limits.disk_max}")
        return -(-size // step) * step

    def _other_wish(self, ref: str) -> Conflict:
        return Conflict(
            f"{ref} at {self._site.name} was made under this tag for another wish: look at it,"
            " then delete it or use a tag of its own"
        )

    def check(self) -> Health:
        with self._call("check") as site:
            return Health(version=site.version, lacking=dict(site.lacking), warnings=site.warnings)

    def catalogue(self) -> Catalogue:
        with self._call("catalogue") as site:
            return site.catalogue

    def owned(self) -> Iterator[Found]:
        with self._call("owned") as site:
            if stale := site.stale():
                raise Unavailable(f"{stale.why}: list again")
            return iter(
                [
                    Found(
                        owner=OwnerTag(
                            artefact=thing.owner.artefact,
                            instance=thing.owner.instance,
                            operation=thing.owner.operation,
                            epoch=thing.epoch,
                        ),
                        kind=kind,
                        ref=thing.ref,
                        power_on=(
                            thing.power is Power.ON if isinstance(thing, FakeInstance) else None
                        ),
                    )
                    for kind, things in site.everything()
                    if kind is not None
                    for thing in things.values()
                ]
            )

    def close(self) -> None:
        self._closed = True

    def quota(self) -> QuotaSeen:
        with self._call("quota") as site:
            return _left(site)

    def create_network(self, owner: OwnerTag, name: str, cidr: str) -> str:
        with self._call("create_network", owner) as site:
            if it := site.networks.get(owner.artefact):
                if (it.name, it.cidr) != (name, cidr):
                    raise self._other_wish(it.ref)
                it.stamp(owner)
                return it.ref
            self._named(name)
            ref = f"net-{site.number()}"
            site.networks[owner.artefact] = FakeNetwork(
                owner=owner, epoch=owner.epoch, ref=ref, name=name, cidr=cidr
            )
            return ref

    def find_network(self, owner: OwnerTag) -> Answer[str]:
        with self._call("find_network", owner) as site:
            if stale := site.stale():
                return stale
            it = site.networks.get(owner.artefact)
            return Seen(it.ref) if it else Absent()

    def delete_network(self, owner: OwnerTag) -> None:
        with self._call("delete_network", owner) as site:
            if not (it := site.networks.get(owner.artefact)):
                return
            it.stamp(owner)
            if any(nic.network == it.ref for i in site.instances.values() for nic in i.nics):
                raise Conflict(
                    f"{it.ref} at {site.name} still has nics: delete the instances first"
                )
            del site.networks[owner.artefact]


def _left(site: FakeSite) -> QuotaSeen:
    """What may still be made, from the bounds and what is there."""

    def minus(bound: int | None, used: int) -> int | None:
        return None if bound is None else max(0, bound - used)

    instances, volumes = site.instances.values(), site.volumes.values()
    return QuotaSeen(
        instances=minus(site.bounds.instances, len(instances)),
        cpus=minus(site.bounds.cpus, sum(i.spec.size.cpus for i in instances)),
        memory=minus(site.bounds.memory, sum(i.spec.size.memory for i in instances)),
        volumes=minus(site.bounds.volumes, len(volumes)),
        disk=minus(site.bounds.disk, sum(v.disk.size for v in volumes)),
    )
