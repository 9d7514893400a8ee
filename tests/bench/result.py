"""What a measurement found, beside its goal and, where there is one, a public tool's figure."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Result:
    """`ours`, `peer` and `goal` in `unit`; smaller is better. `breakdown` says where it went."""

    name: str
    ours: float
    unit: str
    goal: float
    peer: float | None = None
    breakdown: dict[str, float] | None = None

    def as_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "ours": self.ours,
            "peer": self.peer,
            "unit": self.unit,
            "ratio": round(self.ours / self.peer, 3) if self.peer else None,
            "goal": self.goal,
            "met": self.ours <= self.goal,
            **({"breakdown": self.breakdown} if self.breakdown else {}),
        }
