"""Settings of what a federation agrees on besides the weights: scaler, threshold, and what becomes production."""

from typing import Literal

from pydantic import Field

from dl_mqtt_clients.config.base import Section
from dl_mqtt_clients.config.fields import Count, NotNegative, Positive, Seconds, Share


class ScalingSettings(Section):
    """How the scaler comes about. Read by the manager."""

    federated: bool = Field(
        default=False,
        description="Make the scaler from the nodes' feature statistics, before the first round and on the command "
        "rescale; false: the base model's.",
    )
    kind: Literal["standard", "minmax", "robust"] = Field(
        default="standard",
        description="To mean 0 and deviation 1, to the range 0 to 1, or to median 0 and deviation 1 by the quartiles.",
    )
    min_nodes: Positive = Field(
        default=3, description="Nodes whose statistics a scaler needs at least: of two, each could learn the other's."
    )
    deadline_s: Seconds = Field(default=30.0, description="Wait for the other nodes' statistics, in seconds.")
    on_drift: bool = Field(default=False, description="Make a new scaler when nodes report drift.")


class VocabularySettings(Section):
    """Which values of categorical features (`data.categorical`) get an input of their own."""

    size: int = Field(
        default=32,
        ge=1,
        le=10_000,
        description="Values of each categorical feature at most; one more input stands for all others. Read by "
        "model build.",
    )
    min_count: Positive = Field(
        default=10, description="A value must have been seen so often by all nodes together. Read by the manager."
    )
    min_nodes: Positive = Field(
        default=2,
        description="A value must have been seen by so many nodes: with 1, all learn what only one node has. "
        "Read by the manager.",
    )


class ThresholdSettings(Section):
    """Above which score a reading is an anomaly."""

    quantile: float = Field(
        default=0.99, gt=0.0, lt=1.0, description="Quantile of all nodes' held-out scores that is the threshold."
    )
    value: NotNegative | None = Field(
        default=None, description="A fixed threshold (a score) instead; null: the quantile."
    )
    offset: float = Field(
        default=0.0,
        ge=-1e6,
        le=1e6,
        description="Added to the agreed threshold by this node's predictor, in units of the score.",
    )


class PromotionSettings(Section):
    """Which version becomes production. Read by the manager."""

    gate: bool = Field(
        default=True,
        description="Promote a version only when the nodes find it as good as the best before it; false: every one.",
    )
    tolerance: NotNegative = Field(
        default=0.02, description="A candidate's loss may be higher by this share, averaged over the nodes."
    )
    auroc_tolerance: Share = Field(default=0.02, description="A candidate's AUROC may be lower by this.")
    max_noise: NotNegative = Field(
        default=0.05, description="The doubt that differences between nodes leave is added to it, up to this share."
    )
    min_nodes: Positive = Field(default=1, description="Nodes that must have scored a candidate.")
    return_after: Count = Field(
        default=3, description="Rejected versions in a row after which training goes on from the best; 0: never."
    )
    canary: Share = Field(
        default=0.0, description="Share of the predictors that score with a candidate before it is promoted; 0: none."
    )
    canary_s: Seconds = Field(default=60.0, description="How long they do, in seconds.")
    canary_tolerance: Share = Field(
        default=0.05, description="Their share of anomalies may be higher than the others' by this."
    )


class QuarantineSettings(Section):
    """Keeps readings that score far above normal out of the training windows, so that an attack is not learnt."""

    quantile: float | None = Field(
        default=None,
        gt=0.0,
        lt=1.0,
        description="Quantile of all nodes' held-out scores above which a reading is not trained on, such as 0.999; "
        "null: all are. Read by the manager.",
    )
    recent: Positive = Field(default=1000, description="Newest readings of a node of which the share counts.")
    cap: float = Field(
        default=0.2,
        gt=0.0,
        lt=1.0,
        description="With a larger share of them above it the node reports drift, and takes no part in rounds.",
    )
    release_after_s: Seconds = Field(
        default=3600.0,
        description="After so long it takes them for the new normal, in seconds; 0: only by an operator's word "
        "(fedlearn send release).",
    )
