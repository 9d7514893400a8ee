"""What every driver must do: subclass `DriverContract`, give `provider` and `driver`.

Clauses and facets are in the bases, a class each; the fixtures with their defaults in `Ground`.
"""

from tests.contract.suite_adoption import AdoptionContract
from tests.contract.suite_base import NAMED, Break, Fault, Ground, Stranger
from tests.contract.suite_changes import ChangesContract
from tests.contract.suite_compute import (
    ConsoleLogContract,
    FencingContract,
    GuestAgentContract,
    InstancesContract,
    PausingContract,
    QuotaContract,
)
from tests.contract.suite_site import SiteContract
from tests.contract.suite_storage import (
    ImagesContract,
    NetworksContract,
    SnapshotsContract,
    VolumesContract,
)
from tests.contract.suite_transfer import DiskExportContract, DiskImportContract

__all__ = ["NAMED", "Break", "DriverContract", "Fault", "Ground", "Stranger"]


class DriverContract(
    SiteContract,
    InstancesContract,
    FencingContract,
    ConsoleLogContract,
    GuestAgentContract,
    PausingContract,
    QuotaContract,
    VolumesContract,
    ImagesContract,
    SnapshotsContract,
    NetworksContract,
    DiskExportContract,
    DiskImportContract,
    ChangesContract,
    AdoptionContract,
):
    """All of it; tests of facets that the driver does not declare are skipped."""
