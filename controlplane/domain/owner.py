"""The mark that every object we make at a provider carries."""

import re
from dataclasses import dataclass
from uuid import UUID

from controlplane.domain.errors import Invalid
from controlplane.domain.ids import ArtefactId, InstanceId, OperationId

_ID = "([0-9a-f]{32})"
_TEXT = re.compile(rf"fedctl\.{_ID}\.{_ID}\.{_ID}\.([1-9][0-9]*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerTag:
    """Whose an external object is, and under which epoch an effect on it was planned.

    `artefact` alone is the identity: two tags with the same artefact mean the same object.
    `epoch` (>= 1) is stamped on the object; an effect that presents a lower epoch than the stamp is
    refused with `Conflict(reason="superseded")`, one with a higher epoch raises the stamp.
    """

    artefact: ArtefactId
    instance: InstanceId
    operation: OperationId
    epoch: int

    def text(self) -> str:
        """One line of lower-case ASCII (105 characters plus digits), safe in every provider."""
        return f"fedctl.{self.artefact.hex}.{self.instance.hex}.{self.operation.hex}.{self.epoch:d}"

    @classmethod
    def parse(cls, text: str) -> "OwnerTag":
        """The tag that `text()` wrote; Invalid for anything else."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise Invalid(f"{text[:120]!r} is not an owner tag")
        artefact, instance, operation = (UUID(hex=match[number]) for number in (1, 2, 3))
        return cls(
            artefact=ArtefactId(artefact),
            instance=InstanceId(instance),
            operation=OperationId(operation),
            epoch=int(match[4]),
        )
