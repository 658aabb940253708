"""What a local fit minimises beside the model's own loss, as values with a text form. Imports no Keras.

    ""                   plain: the model's own loss
    FedProx(mu=0.01)     does not go far from the base
    SCAFFOLD             goes where all nodes go on average

All are corrections of the gradient g at the weights w: g + mu (w - base) + drift.
"""

from dataclasses import dataclass, fields
from typing import Final

from dl_mqtt_clients.errors import ModelError
from dl_mqtt_clients.learning.text_forms import parse_call, write_call


@dataclass(frozen=True, slots=True)
class Plain:
    """The model's own loss alone."""

    def __str__(self) -> str:
        return ""


@dataclass(frozen=True, slots=True)
class FedProx:
    """F(w) + mu/2 ‖w - base‖², so its gradient + mu (w - base); mu ≥ 0.

    Li et al., Federated Optimization in Heterogeneous Networks, MLSys 2020 (arXiv:1812.06127), Algorithm 2. Departure:
    the inexactness γ is not set; a fit makes the agreed number of steps. SGD needs mu × learning rate < 2.
    """

    mu: float

    def __post_init__(self) -> None:
        if not 0 <= self.mu < float("inf"):
            raise ModelError(f"FedProx: expected mu ≥ 0. Received: {self.mu}")

    def __str__(self) -> str:
        return write_call("FedProx", {"mu": self.mu})


@dataclass(frozen=True, slots=True)
class Scaffold:
    """Each step's gradient - c_i + c, with a control of the node's own, c_i, and one of all, c.

    Karimireddy et al., SCAFFOLD: Stochastic Controlled Averaging for Federated Learning, ICML 2020 (arXiv:1910.06378),
    Algorithm 1, option II: c_i⁺ = c_i - c + (base - w) / (K η). Departure: with momentum or a changing rate, K η is
    what the steps' corrected gradients were multiplied with in all (see `controls`), so that c_i⁺ stays a mean of
    gradients. Needs SGD: the steps of Adam and its like are no gradients.
    """

    def __str__(self) -> str:
        return "SCAFFOLD"


Objective = Plain | FedProx | Scaffold
_KINDS: Final[dict[str, type[FedProx] | type[Scaffold]]] = {"fedprox": FedProx, "scaffold": Scaffold}


def parse_objective(text: str) -> Objective:
    """A text form to its value; upper and lower case are one. ModelError says what was expected."""
    if not text.strip():
        return Plain()
    name, values = parse_call(text, place="objective")
    kind = _KINDS.get(name.lower())
    if kind is None:
        raise ModelError(f"objective: expected FedProx(mu=…), SCAFFOLD, or nothing. Received: {text[:100]!r}")
    wanted = [field.name for field in fields(kind)]
    if sorted(values) != wanted or any(isinstance(v, bool) for v in values.values()):
        words = ", ".join(f"{field}=number" for field in wanted)
        raise ModelError(f"objective: expected {name}({words}). Received: {text[:100]!r}")
    return kind(**{key: float(v) for key, v in values.items()})
