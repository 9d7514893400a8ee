"""Beginning a new life of the control plane from a backup: rows, then what the store knows better.

Temporal starts empty in it. Whatever ran when the backup was taken is over as far as the rows say,
and every site is frozen: what became of it is found by the surveys.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from uuid import UUID, uuid4

from controlplane.domain.artefact import RETENTION, Artefact, ArtefactKind, ArtefactState
from controlplane.domain.audit import AuditEntry
from controlplane.domain.errors import Conflict, FedctlError, Unavailable
from controlplane.domain.ids import ResourceId
from controlplane.domain.operation import ENDED, Operation, OperationState, Problem
from controlplane.domain.placement import Home
from controlplane.keys.port import KeyAgent, KeyId
from controlplane.services.backup import Header, read, read_header
from controlplane.services.freezing import freeze
from controlplane.services.sites import site_list
from controlplane.services.vaulting import KeptKeys
from controlplane.store.engine import NEWEST, Store
from controlplane.store.tx import Tx
from controlplane.vault.homes import Homes
from controlplane.vault.lives import Lives
from controlplane.vault.nouns import Recalled
from controlplane.vault.vault import Vault
from workflows.activities.endings import Outcome, conclude
from workflows.activities.records import OLD_HOME

_log = logging.getLogger(__name__)

WHY = "the control plane was restored from a backup"
_UNENDED = frozenset(OperationState) - ENDED
_ON_THE_WAY = frozenset(
    {
        ArtefactState.INTENDED,
        ArtefactState.ALLOCATED,
        ArtefactState.COPYING,
        ArtefactState.COPIED,
    }
)
_OVER = (
    "the control plane was restored from a backup that was taken while this operation had not"
    " ended; what became of it is seen by surveying the sites (fedctl site survey --all): then ask"
    " again for what is still missing"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What a restore did. `unknown` homes are of instances that were made after the backup."""

    header: Header
    life: int
    sites: tuple[str, ...]
    operations: tuple[str, ...]
    keys: int
    vault: Recalled
    homes: tuple[str, ...]
    unknown: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What a new life begins on: an empty database, and the store of the old life."""

    store: Store
    agent: KeyAgent
    keys: KeptKeys
    vault: Vault
    homes: Homes
    lives: Lives


def restore(ground: Ground, path: Path, clock: Callable[[], datetime]) -> Restored:
    """Brings the backup into an empty database and begins a new life there.

    A restore that broke off goes on when it is asked for again with the same file. Conflict when
    the database holds anything else, or when the backup's schema is not this version's.
    """
    header = read_header(path)
    if header.schema != NEWEST:
        raise Conflict(
            f"{path} was written with schema {header.schema}, this fedctl has {NEWEST}: restore it"
            " with the version that wrote it, then install this one"
        )
    ground.store.migrate()
    with ground.store.read() as tx:
        going_on = tx.settings.restoring == header.id
        if not going_on and (tx.settings.restoring or not tx.is_empty()):
            raise Conflict(
                "the database is not empty, nothing was restored: move it away, or name another"
                " one (FEDCTL_DATABASE_URL)"
            )
    if not going_on:
        _load(ground, path, header, clock())
    return _recall(ground, header, clock())


def _load(ground: Ground, path: Path, header: Header, now: datetime) -> None:
    """The life is claimed last: a file that cannot be restored must stop no control plane."""
    with ground.store.begin() as tx:
        tx.load(read(ground.agent, path))
        tx.settings.restore(header.id)
        for item in tx.outbox.pending(1_000_000):
            tx.outbox.done(item.seq)
        for op in tx.operations.list(states=_UNENDED, limit=1_000_000):
            _end(tx, op, now)
        for site in site_list(tx):
            freeze(tx, site, WHY, now)
        tx.identity.tokens.revoke_all(now)
        incarnation = uuid4()
        life = ground.lives.claim(incarnation)
        tx.settings.renew(incarnation, life)
        _note(tx, header, life, now)


def _end(tx: Tx, op: Operation, now: datetime) -> None:
    """It is over, and whatever it had made is kept: nothing copied is destroyed."""
    for artefact in tx.artefacts.list(operation=op.id, states=_ON_THE_WAY):
        tx.artefacts.set_state(
            artefact.id,
            ArtefactState.RETAINED,
            note="kept when the control plane was restored",
            expires_at=now + RETENTION,
        )
    problem = Problem(code=Unavailable.code, message=_OVER)
    outcome = Outcome(operation=str(op.id), state=OperationState.FAILED, problem=problem)
    conclude(tx, outcome, now)


def _note(tx: Tx, header: Header, life: int, now: datetime) -> None:
    tx.audit.append(
        AuditEntry(
            sequence=0,
            at=now,
            actor="fedctl",
            tenant="",
            action="control-plane.restore",
            subject="control-plane",
            outcome="restored",
            request="restore",
            detail={
                "backup": header.id,
                "takenAt": header.created_at.isoformat(),
                "life": str(life),
            },
        ),
        now,
    )


def _recall(ground: Ground, header: Header, now: datetime) -> Restored:
    """What the store knows, and the rows of the backup's day do not; again is fine."""
    try:
        ground.vault.put_back_keys()
    except FedctlError as error:
        _log.warning("keys that only the vault's replica may have are not looked for: %s", error)
    keys = ground.keys.recall()
    vault = ground.vault.recall(lambda key: _owner(ground, key))
    adopted: list[str] = []
    unknown: list[str] = []
    homes = tuple(ground.homes.newest())
    with ground.store.begin() as tx:
        for home in homes:
            resource = tx.resources.find_id(ResourceId(home.instance))
            if resource is None:
                unknown.append(f"{home.instance} of {home.tenant} at {home.site}")
            elif adopt_home(tx, home, now):
                adopted.append(f"{home.tenant}/{resource.key} at {home.site}")
        tx.settings.restored()
        life = tx.settings.life
        sites = tuple(site.key.name for site in site_list(tx))
        over = tuple(
            op.name
            for op in tx.operations.list(states={OperationState.FAILED}, limit=1_000_000)
            if op.problem is not None and op.problem.message == _OVER and op.ended_at is not None
        )
    return Restored(
        header=header,
        life=life,
        sites=sites,
        operations=over,
        keys=keys,
        vault=vault,
        homes=tuple(adopted),
        unknown=tuple(unknown),
    )


def _owner(ground: Ground, key: str) -> str | None:
    with suppress(ValueError):
        row = ground.keys.get(KeyId(UUID(key)))
        return None if row is None else row.name.owner
    return None


def adopt_home(tx: Tx, home: Home, now: datetime) -> bool:
    """Whether the store's home is newer than the one on record; the old one stays as a copy."""
    if not tx.placements.adopt(home):
        return False
    for artefact in tx.artefacts.list(instance=home.instance, states={ArtefactState.ATTACHED}):
        if artefact.id != home.copy:
            tx.artefacts.set_state(artefact.id, ArtefactState.RETAINED, note=OLD_HOME)
    known = tx.artefacts.find(home.copy)
    if known is None:
        tx.artefacts.intend(
            Artefact(
                id=home.copy,
                kind=ArtefactKind.INSTANCE,
                site=home.site,
                instance=home.instance,
                operation=home.operation,
                epoch=home.epoch,
                state=ArtefactState.INTENDED,
                created_at=now,
            )
        )
    elif known.state is ArtefactState.RETAINED:
        tx.artefacts.set_state(home.copy, ArtefactState.ATTACHED, note="")
    instance = tx.resources.by_id(ResourceId(home.instance))
    tx.resources.set_spec(instance.id, {**instance.spec, "zone": home.site}, now=now)
    return True
