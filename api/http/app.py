"""The HTTP API as one application; its parts come from a composition root."""

from fastapi import FastAPI

from api.http import documents, errors
from api.http.feed import Feed
from api.http.outermost import Outermost
from api.http.paging import Pages
from api.http.routes import events, federation, identity, kinds, uploads, wellknown
from api.http.settings import HttpSettings
from api.schemas.version import fedctl_version
from controlplane.services import Services


def create_app(services: Services, settings: HttpSettings | None = None) -> FastAPI:
    """Serves `services`; nothing is started and nothing outside is touched."""
    chosen = settings or HttpSettings()
    version = fedctl_version()
    app = FastAPI(
        title="fedctl", version=version, docs_url=None, redoc_url=None, openapi_url="/openapi.json"
    )
    pages = Pages(chosen.page_key)
    app.include_router(wellknown.router(services))
    app.include_router(identity.router(services, version=version))
    app.include_router(federation.router(services))
    app.state.feed = Feed(services.changes)
    app.include_router(events.router(services, app.state.feed))
    app.include_router(uploads.router(services))
    app.include_router(kinds.router(services, pages))
    errors.install(app, chosen)
    documents.install(app, version=version)
    app.add_middleware(Outermost, body_max=chosen.body_max)
    return app
