"""A snapshot of ours at a site, while a story needs it and when it goes."""

from dataclasses import replace

from temporalio.exceptions import ActivityError

from controlplane.domain.artefact import ArtefactKind
from controlplane.domain.disk import Mark
from workflows.activities.orders import At, Remove
from workflows.activities.records import RecordActivities, Retain
from workflows.activities.sites import SiteActivities
from workflows.calls import clean, record


class Snapshot:
    """One of ours; `mark` names it once it was seen."""

    def __init__(self, at: At) -> None:
        self.at = at
        self.mark: Mark | None = None

    def removal(self, verb: str) -> Remove:
        return Remove(
            at=replace(self.at, step=f"{verb}: {self.at.step}"), kind=ArtefactKind.SNAPSHOT
        )

    async def tidied(self, verb: str) -> None:
        """Gone, or written down: scaffolding never keeps a source from running again."""
        try:
            await clean(SiteActivities.remove, self.removal(verb))
        except ActivityError:
            at = self.at
            kept = Retain(work=at.work, artefact=at.artefact, kind=ArtefactKind.SNAPSHOT)
            await record(RecordActivities.retain, kept)

    async def take_back(self) -> None:
        await self.tidied("undo")
