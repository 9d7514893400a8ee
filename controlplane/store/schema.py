"""All tables: importing this module declares every one of them."""

from controlplane.store import tx
from controlplane.store.rows import Base

METADATA = Base.metadata
DECLARED_BY = tx.__name__  # every repository is reached from there
