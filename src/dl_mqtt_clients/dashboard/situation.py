"""What a view shows beside what the messages tell."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What the messages do not tell."""

    title: str = ""
    phase: str = ""  # what is being done, in words
    broker: str = ""  # its address, for those who want to look on
    rounds: int = 0  # asked for; 0: no end
    elapsed_s: float = 0.0
    baseline_auroc: float | None = None
    baseline_loss: float | None = None
    now: float = 0.0  # on the clock of the fleet's messages
