"""The schema's history, carried inside the package."""

from pathlib import Path
from threading import Lock

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

_ALONE = Lock()  # Alembic keeps its environment in a module


def config_for(connection: Connection) -> Config:
    """Alembic's settings for work inside the connection's open transaction."""
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def upgrade(connection: Connection) -> None:
    """Brings the schema to the newest revision, in the transaction that is open."""
    with _ALONE:
        command.upgrade(config_for(connection), "head")
