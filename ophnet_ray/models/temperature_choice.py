"""Temperature of a checkpoint's probabilities, as ``evaluate --keep_temperature`` chose it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class TemperatureChoice:
    """A temperature that was chosen on held-out cases, see ``metrics.temperature``.

    ``chosen_on``: split whose frames decided; ``case_hashes``: pseudonyms of its cases: scores of
    their probabilities say too much of it; ``gain``: by how much it lowers the negative
    log-likelihood on cases that did not choose, with its 95 % interval: ``value``, ``low``,
    ``high``.
    """

    temperature: float
    chosen_on: str
    case_hashes: tuple[str, ...] = ()
    gain: Mapping[str, float | None] | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the values of ``to_dict``.

        Raises:
            KeyError, TypeError, ValueError: They are damaged.
        """
        temperature, gain = float(values["temperature"]), values.get("gain")
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature {temperature}")
        return cls(
            temperature,
            str(values["chosen_on"]),
            tuple(values.get("case_hashes", ())),
            None if gain is None else dict(gain),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return {
            "temperature": self.temperature,
            "chosen_on": self.chosen_on,
            "case_hashes": list(self.case_hashes),
            "gain": None if self.gain is None else dict(self.gain),
        }
