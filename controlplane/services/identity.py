"""Tenants, local users and API tokens; the first administrator."""

from datetime import timedelta
from threading import BoundedSemaphore
from uuid import UUID, uuid4

from controlplane.domain.audit import AuditEntry
from controlplane.domain.errors import Busy, Conflict, Denied, NotFound
from controlplane.domain.identity import AccessRequest, TokenRecord, User
from controlplane.domain.ids import (
    SCOPE_NAME_MAX,
    ResourceId,
    TenantName,
    UserName,
    checked_name,
)
from controlplane.domain.kinds import facts
from controlplane.domain.resource import Json, Kind
from controlplane.identity.passwords import Passwords
from controlplane.identity.roles import AUTHORIZATION
from controlplane.identity.tokens import IssuedToken, issue
from controlplane.services.access import OPERATOR, UNAUTHENTICATED, Access
from controlplane.services.ports import Clock, ServiceSettings
from controlplane.services.record import append
from controlplane.services.references import SHARED_TENANTS
from controlplane.services.stored import settled
from controlplane.services.wish import Caller
from controlplane.store.engine import Store
from controlplane.store.tx import Tx

_BOOTSTRAP = "bootstrap"
_ADMIN = "seca.admin"
_HASHED_AT_ONCE = 2  # each takes 64 MiB for a moment
_HASHING_PATIENCE = 10.0
_TAKEN = SHARED_TENANTS | {OPERATOR}


class Identity:
    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        settings: ServiceSettings,
        access: Access,
        passwords: Passwords | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._settings = settings
        self._access = access
        self._passwords = passwords or Passwords()
        self._hashing = BoundedSemaphore(_HASHED_AT_ONCE)

    def bootstrap(self, tenant: str, user: str, password: str) -> str:
        """A token of the first administrator, of `tenant` and of the control plane itself.

        For composition roots only: it asks for no rights. Called again it makes what is missing
        and issues another token; the password of a user that is there stays.
        """
        checked_name(tenant, what="a tenant's name", longest=SCOPE_NAME_MAX)
        checked_name(user, what="a user's name")
        now = self._clock.now()
        with self._store.begin() as tx:
            for name in (OPERATOR, TenantName(tenant)):
                if tx.identity.tenants.find(name) is None:
                    tx.identity.tenants.add(name, now)
            found = tx.identity.users.find(UserName(user))
            if found is None:
                found = User(
                    name=UserName(user),
                    tenant=TenantName(tenant),
                    password=self._passwords.hash(password),
                    created_at=now,
                )
                tx.identity.users.add(found)
            for name in (OPERATOR, TenantName(tenant)):
                self._make_admin(tx, name, found.name)
            issued = issue(found, now=now, lifetime=self._settings.login_lasts, note=_BOOTSTRAP)
            tx.identity.tokens.add(issued.record)
            self._note(tx, found.name, found.tenant, "token.bootstrap", str(issued.record.id))
        return issued.text

    def login(
        self, user: str, password: str, *, tenant: str | None, label: str, request: str
    ) -> IssuedToken:
        """A new token for whoever knows the password; every refusal looks the same."""
        now = self._clock.now()
        with self._store.read() as tx:
            found = tx.identity.users.find(UserName(user))
        known = found is not None and not found.disabled and tenant in {None, found.tenant}
        stored = found.password if found is not None and known else ""
        if not self._matches(stored, password) or found is None:
            raise Denied(
                "user and password do not belong together here: check both, then log in again",
                reason=UNAUTHENTICATED,
            )
        issued = issue(found, now=now, lifetime=self._settings.login_lasts, note=label)
        with self._store.begin() as tx:
            if self._passwords.outdated(found.password):
                tx.identity.users.set_password(found.name, self._passwords.hash(password))
            tx.identity.tokens.add(issued.record)
            self._note(tx, found.name, found.tenant, "login", str(issued.record.id), request)
        return issued

    def _matches(self, stored: str, password: str) -> bool:
        """Checks a password; strangers who try many at once wait for each other."""
        if not self._hashing.acquire(timeout=_HASHING_PATIENCE):
            raise Busy("many are logging in at this moment: try again soon")
        try:
            return self._passwords.matches(stored, password)
        finally:
            self._hashing.release()

    def tokens(self, caller: Caller) -> list[TokenRecord]:
        """The caller's own, without those that were revoked."""
        with self._store.read() as tx:
            found = tx.identity.tokens.list(UserName(caller.subject))
        return [record for record in found if record.revoked_at is None]

    def create_token(self, caller: Caller, *, label: str, lifetime: timedelta) -> IssuedToken:
        with self._store.begin() as tx:
            user = tx.identity.users.get(UserName(caller.subject))
            issued = issue(user, now=self._clock.now(), lifetime=lifetime, note=label)
            tx.identity.tokens.add(issued.record)
            token = str(issued.record.id)
            self._note(tx, user.name, user.tenant, "token.create", token, caller.request)
        return issued

    def revoke_token(self, caller: Caller, token: UUID) -> None:
        with self._store.begin() as tx:
            own = tx.identity.tokens.list(UserName(caller.subject))
            if all(record.id != token for record in own):
                raise NotFound(f"you have no token {token}: list them (fedctl token list)")
            tx.identity.tokens.revoke(token, self._clock.now())
            subject = str(token)
            self._note(tx, caller.subject, caller.tenant, "token.revoke", subject, caller.request)

    def add_tenant(self, caller: Caller, name: str) -> bool:
        """Whether the tenant was made; only operators of the control plane may."""
        checked_name(name, what="a tenant's name", longest=SCOPE_NAME_MAX)
        self._access.require_request(caller, _authorization(caller, "tenants", name, None))
        if name in _TAKEN:
            raise Conflict(f"tenant name {name!r} is reserved: choose another")
        with self._store.begin() as tx:
            if tx.identity.tenants.find(TenantName(name)) is not None:
                return False
            tx.identity.tenants.add(TenantName(name), self._clock.now())
            self._note(tx, caller.subject, TenantName(name), "tenant.put", name, caller.request)
        return True

    def add_user(
        self, caller: Caller, tenant: str, name: str, password: str, *, admin: bool = False
    ) -> bool:
        """Whether the user was made; one that is there gets the password anew.

        Administrators of the tenant may, and operators, who so give a tenant its first one.
        """
        checked_name(name, what="a user's name")
        if not self._access.allows(_authorization(caller, "tenants", tenant, None)):
            self._access.require_request(caller, _authorization(caller, "users", name, tenant))
        hashed = self._passwords.hash(password)
        with self._store.begin() as tx:
            home = TenantName(tenant)
            if tx.identity.tenants.find(home) is None:
                raise NotFound(f"there is no tenant {tenant!r}: check the name")
            found = tx.identity.users.find(UserName(name))
            if found is not None and found.tenant != home:
                raise Conflict(f"user name {name!r} is taken: choose another")
            if found is None:
                user = User(
                    name=UserName(name),
                    tenant=home,
                    password=hashed,
                    created_at=self._clock.now(),
                )
                tx.identity.users.add(user)
            else:
                tx.identity.users.set_password(found.name, hashed)
            if admin:
                self._make_admin(tx, home, UserName(name))
            self._note(tx, caller.subject, home, "user.put", name, caller.request)
        return found is None

    def _make_admin(self, tx: Tx, tenant: TenantName, user: UserName) -> None:
        key = facts(Kind.ROLE_ASSIGNMENT).key(f"{_BOOTSTRAP}.{user}", tenant, None)
        if tx.resources.find(key) is not None:
            return
        now = self._clock.now()
        spec: Json = {"subs": [user], "roles": [_ADMIN], "scopes": [{}]}
        made, _ = tx.resources.put(key, id=ResourceId(uuid4()), spec=spec, now=now)
        settled(tx, made, now=now, created=True)

    def _note(  # noqa: PLR0917  # the fields of an entry, in their order
        self,
        tx: Tx,
        actor: str,
        tenant: TenantName,
        action: str,
        subject: str,
        request: str = "",
    ) -> None:
        append(
            tx,
            AuditEntry(
                sequence=0,
                at=self._clock.now(),
                actor=actor,
                tenant=tenant,
                action=action,
                subject=subject,
                outcome="accepted",
                request=request,
            ),
        )


def _authorization(caller: Caller, collection: str, name: str, tenant: str | None) -> AccessRequest:
    return AccessRequest(
        actor=caller.actor,
        provider=AUTHORIZATION,
        collection=collection,
        verb="put",
        name=name,
        tenant=None if tenant is None else TenantName(tenant),
    )
