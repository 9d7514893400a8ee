"""The use cases that the API calls; each change is one transaction."""

from collections.abc import Mapping

from controlplane.domain.resource import Kind
from controlplane.identity.passwords import Passwords
from controlplane.services.access import Access
from controlplane.services.adoption import Adoptions
from controlplane.services.changes import Changes
from controlplane.services.checks import VaultChecks
from controlplane.services.identity import Identity
from controlplane.services.images import Images
from controlplane.services.instances import Instances
from controlplane.services.moves import Moves
from controlplane.services.operations import Operations
from controlplane.services.orphans import Orphans
from controlplane.services.placements import Placements
from controlplane.services.points import RecoveryPoints
from controlplane.services.ports import Clock, Secrets, ServiceSettings, Signer
from controlplane.services.protections import Protections
from controlplane.services.regions import Regions
from controlplane.services.roles import RoleAssignments, Roles
from controlplane.services.sites import Sites
from controlplane.services.skus import Skus
from controlplane.services.stored import Cases
from controlplane.services.trail import AuditCheckpoints, AuditEntries, Trail
from controlplane.services.uploads import Uploads
from controlplane.services.usage import VaultStats
from controlplane.services.volumes import BlockStorages
from controlplane.services.workspaces import Workspaces
from controlplane.store.engine import Store


class Services:
    """All use cases over one store; used by any number of threads."""

    def __init__(
        self,
        *,
        store: Store,
        secrets: Secrets,
        signer: Signer,
        clock: Clock,
        settings: ServiceSettings,
        passwords: Passwords | None = None,
    ) -> None:
        self.store = store
        self.settings = settings
        self.access = Access(store=store, clock=clock, settings=settings)
        self.identity = Identity(
            store=store, clock=clock, settings=settings, access=self.access, passwords=passwords
        )
        self.sites = Sites(store=store, clock=clock, secrets=secrets)
        self.orphans = Orphans(store=store, clock=clock)
        self.adoptions = Adoptions(store=store, clock=clock)
        self.regions = Regions(store=store, settings=settings)
        self.uploads = Uploads(store=store, clock=clock, settings=settings)
        self.operations = Operations(store=store, clock=clock, bounds=settings.bounds)
        self.changes = Changes(store=store, access=self.access, settings=settings)
        self.trail = Trail(store=store, clock=clock, signer=signer)
        self.cases: Mapping[Kind, Cases] = {
            Kind.REGION: self.regions,
            Kind.ROLE: Roles(store=store, clock=clock),
            Kind.ROLE_ASSIGNMENT: RoleAssignments(store=store, clock=clock),
            Kind.WORKSPACE: Workspaces(store=store, clock=clock),
            Kind.INSTANCE_SKU: Skus(Kind.INSTANCE_SKU),
            Kind.INSTANCE: Instances(store=store, clock=clock),
            Kind.STORAGE_SKU: Skus(Kind.STORAGE_SKU),
            Kind.IMAGE: Images(store=store, clock=clock),
            Kind.BLOCK_STORAGE: BlockStorages(store=store, clock=clock),
            Kind.SITE: self.sites,
            Kind.OPERATION: self.operations,
            Kind.AUDIT_ENTRY: AuditEntries(store=store),
            Kind.AUDIT_CHECKPOINT: AuditCheckpoints(store=store),
            Kind.VAULT_CHECK: VaultChecks(store=store, clock=clock),
            Kind.VAULT_STATS: VaultStats(store=store),
            Kind.IMAGE_UPLOAD: self.uploads,
            Kind.MOVE: Moves(store=store, clock=clock, bounds=settings.bounds, access=self.access),
            Kind.PROTECTION: Protections(store=store, clock=clock),
            Kind.RECOVERY_POINT: RecoveryPoints(store=store, clock=clock),
            Kind.PLACEMENT: Placements(store=store),
        }
