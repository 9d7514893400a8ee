"""The API process: `python -m api.http`. Reads FEDCTL_* settings, stops on SIGTERM."""

import hashlib
import logging

import uvicorn

from api.http.app import create_app
from api.http.settings import HttpSettings
from controlplane.domain.ids import RegionName
from controlplane.services import Services
from controlplane.services.assembly import Assembly, SystemClock, assemble
from controlplane.services.ports import ServiceSettings
from controlplane.services.secrets import AuditSigner
from controlplane.settings import Settings

ORIGIN = "fedctl.audit"


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
        ),
    )


def main() -> None:
    settings = Settings()
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    parts = assemble(settings, process="api")
    key = settings.list_token_key
    chosen = HttpSettings()
    if key is not None:
        chosen = HttpSettings(page_key=hashlib.sha256(key.get_secret_value().encode()).digest())
    try:
        uvicorn.run(
            create_app(services(settings, parts), chosen),
            host=settings.api_host,
            port=settings.api_port,
            log_config=None,
            access_log=False,
            server_header=False,
        )
    finally:
        parts.close()


if __name__ == "__main__":
    main()
