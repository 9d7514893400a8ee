"""The mark that every object we make at a provider carries."""

from dataclasses import dataclass
from uuid import UUID

from controlplane.domain.errors import Invalid
from controlplane.domain.ids import ArtefactId, InstanceId, OperationId

_FIELDS = 5


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
        parts = text.split(".")
        try:
            if len(parts) != _FIELDS:
                raise ValueError(text)
            artefact, instance, operation = (UUID(hex=part) for part in parts[1:4])
            tag = cls(
                artefact=ArtefactId(artefact),
                instance=InstanceId(instance),
                operation=OperationId(operation),
                epoch=int(parts[4]),
            )
        except ValueError as e:
            raise Invalid(f"{text[:120]!r} is not an owner tag") from e
        if tag.epoch < 1 or tag.text() != text:
            raise Invalid(f"{text[:120]!r} is not an owner tag")
        return tag
