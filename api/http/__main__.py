"""The API process: `python -m api.http`. Reads FEDCTL_* settings, stops on SIGTERM.

With `--prepare TENANT USER PASSWORD-FILE` it first does what `api.http.bootstrap` does.
"""

import argparse
import hashlib
from pathlib import Path

import uvicorn

from api.http.app import create_app
from api.http.feed import Server
from api.http.settings import HttpSettings
from api.lives import run
from controlplane.logs import write_log
from controlplane.services.assembly import assemble, services
from controlplane.settings import Settings


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m api.http", description=__doc__)
    parser.add_argument(
        "--prepare", nargs=3, metavar=("TENANT", "USER", "PASSWORD-FILE"), default=None
    )
    wish: list[str] | None = parser.parse_args().prepare
    settings = Settings()
    write_log(settings.log_level, settings.log_format)
    parts = assemble(settings, process="api")
    if wish is not None:
        tenant, user, file = wish
        parts.store.migrate()
        services(settings, parts).identity.bootstrap(tenant, user, Path(file).read_text())
    parts.store.await_schema()
    key = settings.list_token_key
    chosen = HttpSettings()
    if key is not None:
        chosen = HttpSettings(page_key=hashlib.sha256(key.get_secret_value().encode()).digest())
    try:
        app = create_app(services(settings, parts), chosen)
        config = uvicorn.Config(
            app,
            host=settings.api_host,
            port=settings.api_port,
            log_config=None,
            access_log=False,
            server_header=False,
        )
        run(Server(config, app.state.feed), parts)
    finally:
        parts.close()


if __name__ == "__main__":
    main()
