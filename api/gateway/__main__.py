"""The image gateway's process: `python -m api.gateway`. Reads FEDCTL_* settings."""

from uuid import UUID

from api.gateway.app import gateway, server
from api.lives import run
from controlplane.domain.disk import BlockReader
from controlplane.domain.ids import PointId
from controlplane.domain.placement import Served
from controlplane.logs import write_log
from controlplane.services.assembly import assemble
from controlplane.services.bandwidth import Bandwidth
from controlplane.settings import Settings


def main() -> None:
    settings = Settings()
    write_log(settings.log_level, settings.log_format)
    parts = assemble(settings, process="gateway")
    parts.store.await_schema()

    def find(token_sha256: str) -> Served | None:
        with parts.store.read() as tx:
            return tx.served.by_token(token_sha256)

    def open_disk(served: Served) -> BlockReader:
        return parts.vault.open(PointId(UUID(served.point)), served.disk)

    bandwidth = Bandwidth(parts.store)

    def owed(served: Served, length: int) -> float:
        return bandwidth.to_target_of(served.operation, length)

    try:
        serves = server(
            gateway(find=find, open_disk=open_disk, owed=owed),
            host=settings.gateway_host,
            port=settings.gateway_port,
            certificate=settings.gateway_certificate,
            key=settings.gateway_key,
            proxies=settings.gateway_proxies,
        )
        run(serves, parts)
    finally:
        parts.close()


if __name__ == "__main__":
    main()
