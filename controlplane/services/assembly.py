"""Puts store, keys and vault together from settings; every process begins here."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from controlplane.domain.admission import Bounds
from controlplane.domain.ids import RegionName
from controlplane.keys.client import AgentClient
from controlplane.keys.keyring import Keyring
from controlplane.keys.port import SigningPurpose
from controlplane.services import Services
from controlplane.services.keytrail import KeyTrail
from controlplane.services.ports import ServiceSettings
from controlplane.services.secrets import AuditSigner, SiteSecrets
from controlplane.services.stores import open_replica, open_store
from controlplane.services.vaulting import CheckedKeys, KeptKeys, StoreSigner, domain_keys
from controlplane.settings import Settings
from controlplane.store.engine import Store
from controlplane.store.ports import StoredKeys, StoredVault
from controlplane.vault.homes import Homes
from controlplane.vault.lives import Lives
from controlplane.vault.vault import Vault

ORIGIN = "fedctl.audit"


class SystemClock:
    """The machine's clock, in UTC."""

    def now(self) -> datetime:
        return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembly:
    """What a server process holds; close it when done."""

    store: Store
    agent: AgentClient
    keyring: Keyring
    keys: KeptKeys
    secrets: SiteSecrets
    vault: Vault
    homes: Homes
    lives: Lives
    trail: KeyTrail

    def close(self) -> None:
        self.vault.close()
        self.trail.close()
        self.agent.close()
        self.store.close()


def assemble(settings: Settings, *, process: str = "fedctl", index: Path | None = None) -> Assembly:
    """Opens nothing outside of this machine but the database.

    `process` is the name under which uses of keys are audited; `index` caches the vault's index.
    """
    clock = SystemClock()
    store = Store(settings.database_url)
    agent = AgentClient(settings.agent_socket)
    objects = open_store(settings)
    rows = KeptKeys(StoredKeys(store), objects)
    signer = StoreSigner(agent, SigningPurpose.HOME)
    trail = KeyTrail(store, clock, process=process)
    keyring = Keyring(agent=agent, rows=rows, observe=trail.observe)
    vault = Vault(
        records=StoredVault(store),
        objects=objects,
        keys=domain_keys(keyring, rows),
        signer=StoreSigner(agent, SigningPurpose.VAULT_HEAD),
        clock=clock.now,
        index=index,
        replica=open_replica(settings),
        signers={"homes": signer, "incarnations": signer},
        wrapped=CheckedKeys(rows, keyring),
    )
    return Assembly(
        store=store,
        agent=agent,
        keyring=keyring,
        keys=rows,
        secrets=SiteSecrets(keyring),
        vault=vault,
        homes=Homes(objects, signer, vault.read),
        lives=Lives(objects, signer),
        trail=trail,
    )


def bounds(settings: Settings) -> Bounds:
    """Those on moves."""
    return Bounds(
        at_once=settings.moves_at_once,
        per_site=settings.moves_per_site,
        per_tenant=settings.moves_per_tenant,
        waiting=settings.moves_waiting,
    )


def services(settings: Settings, parts: Assembly) -> Services:
    """All use cases over one assembly."""
    settings.uploads.mkdir(parents=True, exist_ok=True, mode=0o700)
    return Services(
        store=parts.store,
        secrets=parts.secrets,
        signer=AuditSigner(parts.agent, origin=ORIGIN),
        clock=SystemClock(),
        settings=ServiceSettings(
            public_url=settings.public_url.rstrip("/"),
            uploads=settings.uploads,
            region=RegionName(settings.regions[0]),
            bounds=bounds(settings),
        ),
    )
