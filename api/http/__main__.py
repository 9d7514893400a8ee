"""The API process: `python -m api.http`. Reads FEDCTL_* settings, stops on SIGTERM."""

import hashlib
import logging

import uvicorn

from api.http.app import create_app
from api.http.settings import HttpSettings
from controlplane.services.assembly import assemble, services
from controlplane.settings import Settings


def main() -> None:
    settings = Settings()
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    parts = assemble(settings, process="api")
    parts.store.await_schema()
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
