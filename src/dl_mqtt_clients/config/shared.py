"""Settings that all nodes of a federation share: the manager reads them, and tells the nodes what they need."""

from typing import Literal

from pydantic import Field

from dl_mqtt_clients.config.base import Section
from dl_mqtt_clients.config.fields import (
    AboveZero,
    ChunkBytes,
    Count,
    Name,
    Names,
    NotNegative,
    Positive,
    Seconds,
    Share,
    Text,
    Texts,
    Widths,
)


class FederationSettings(Section):
    """Who belongs together, and what for. The same on every node."""

    name: Name = Field(default="default", description="Name of the federation, part of every topic.")
    seed: Text = Field(
        default="fedlearn", max_length=64, description="Seed of cohorts, shuffling and initial weights (text)."
    )
    task: Literal["anomaly", "supervised"] = Field(
        default="anomaly", description="anomaly: learn to reproduce the reading. supervised: learn its label."
    )
    nodes: Names = Field(default=(), description="Ids of the nodes that may take part; empty: any node.")


class ModelSettings(Section):
    """The model that the manager publishes. Nodes get it over the network and need nothing here."""

    file: Text = Field(default="", description="A .keras file; empty: build a dense model from the fields below.")
    hidden: Widths = Field(default=(64, 16, 64), description="Units of the hidden dense layers, first to last.")
    activation: Text = Field(
        default="relu", min_length=1, description="Activation of the hidden layers, by Keras's name."
    )
    output_activation: Text = Field(
        default="linear", min_length=1, description="Activation of the last layer, by Keras's name."
    )
    loss: Text = Field(
        default="", description="Loss, by Keras's name; empty: mse for anomaly, crossentropy for supervised."
    )
    learning_rate: AboveZero = Field(default=0.001, description="Step size of the model's optimizer.")
    scaling: Literal["standard", "minmax", "none"] = Field(
        default="standard",
        description="How features are scaled: to mean 0 and deviation 1, to the range 0 to 1, or not at all.",
    )
    onnx: bool = Field(
        default=False,
        description="Publish the model as an ONNX graph as well, for predictors without Keras; needs the extra export.",
    )
    personal: Texts = Field(
        default=(),
        description="Patterns of the paths of variables that are trained and stay on each node: "
        "*/batch_normalization*/* (FedBN), */output/* (FedPer); empty: none.",
    )
    max_parameters: Positive = Field(
        default=200_000_000, description="Largest model that a node accepts, in parameters."
    )
    custom_modules: Texts = Field(
        default=(), description="Python modules with custom layers, imported before a model is rebuilt."
    )


class RoundSettings(Section):
    """When a round begins, closes and is abandoned. Read by the manager."""

    count: Count = Field(default=0, description="Rounds to run; 0: no end.")
    mode: Literal["sync", "async"] = Field(
        default="sync",
        description="sync: a round counts updates of its own base. async: of earlier ones too, so none waits.",
    )
    target_updates: Count = Field(
        default=0,
        description="Updates that close a round before its deadline; 0: as many as there are live trainers. "
        "In mode async the size of the buffer.",
    )
    max_staleness: int = Field(
        default=5, ge=0, le=10_000, description="Oldest base that still counts in mode async, in versions back."
    )
    over_selection: float = Field(
        default=1.0,
        ge=1.0,
        le=100.0,
        description="Ask so many times target_updates nodes, so that the slow ones need not come; 1: ask the fraction.",
    )
    require: Texts = Field(
        default=(),
        description="Attributes a node must have to take part, such as gpu=true or site=north; empty: any node.",
    )
    strategy: Text = Field(
        default="FedAvg @ MedianClip",
        min_length=1,
        description="How updates become a version, such as FedAdam(lr=0.01) @ TrimmedMean(0.1) @ ClipNorm(1.0), "
        "or a rule of your own as module:name. In mode async PolynomialStaleness is added unless another rule weighs "
        "staleness.",
    )
    rules_folder: Text = Field(
        default=".", min_length=1, description="Folder where the modules of rules of your own are looked for first."
    )
    min_updates: Positive = Field(
        default=1, description="Quorum: with fewer updates at the deadline the round is abandoned and tried again."
    )
    deadline_s: Seconds = Field(default=60.0, gt=0.0, description="Longest duration of a round, in seconds.")
    fraction: Share = Field(default=1.0, gt=0.0, description="Share of the nodes drawn for a round.")
    fraction_growth: float = Field(
        default=2.0, ge=1.0, le=1000.0, description="Factor on fraction when a round is tried again."
    )
    pause_s: Seconds = Field(default=0.0, description="Pause between two rounds, in seconds.")
    continuous: bool = Field(
        default=True,
        description="Begin a round when the last has ended; false: when a command or one of the next three says so.",
    )
    every_s: Seconds = Field(
        default=0.0, description="Begin one this long after the last has ended, in seconds; 0: no."
    )
    every_readings: Count = Field(
        default=0, description="Begin one when the fleet has received so many new readings; 0: no."
    )
    drifted_nodes: Count = Field(default=0, description="Begin one when so many nodes newly report drift; 0: no.")
    max_examples: Count = Field(
        default=0, description="Largest weight of one update, in examples; 0: window × epochs of the training section."
    )
    max_delta: AboveZero = Field(default=100.0, description="Largest change of any one weight that is accepted.")
    statistics_deadline_s: Seconds = Field(
        default=5.0, description="Wait for the nodes' scores of a new version, in seconds."
    )
    keep_versions: Positive = Field(default=20, description="Newest versions kept on the manager's disk.")
    history: int = Field(default=100, ge=0, le=10_000, description="Rounds in the published history.")


class TransferSettings(Section):
    """How models and updates cross the federation broker."""

    codec: Text = Field(
        default="float32",
        description="How updates travel: float32, bfloat16, float16, int8, int4, or topk:<share>, as topk:0.01.",
    )
    chunk_bytes: ChunkBytes = Field(default=262_144, description="Size of a chunk, in bytes.")
    chunks_in_flight: int = Field(
        default=64, ge=1, le=4096, description="Chunks granted to all nodes together and not yet received."
    )
    inline_bytes: Count = Field(
        default=1_048_576,
        description="Updates are sent with their offer while the whole cohort's are no larger than this together, "
        "in bytes; 0: never.",
    )
    max_update_bytes: Positive = Field(default=2_147_483_648, description="Largest update accepted, in bytes.")
    min_free_disk_bytes: Count = Field(
        default=268_435_456, description="The manager takes no update that leaves less disk than this, in bytes."
    )


class EarlyStoppingSettings(Section):
    """Stops a fit whose loss no longer falls."""

    enabled: bool = Field(default=False, description="Whether to stop early.")
    patience: Positive = Field(default=3, description="Epochs without improvement before it stops.")
    delta: NotNegative = Field(default=0.0, description="Smallest fall of the loss that counts as improvement.")


class ReduceOnPlateauSettings(Section):
    """Lowers the learning rate of a fit whose loss no longer falls."""

    enabled: bool = Field(default=False, description="Whether to lower the learning rate.")
    patience: Positive = Field(default=2, description="Epochs without improvement before it is lowered.")
    delta: NotNegative = Field(default=0.0, description="Smallest fall of the loss that counts as improvement.")
    cooldown: Count = Field(default=0, description="Epochs after a reduction that are not judged.")
    factor: float = Field(default=0.1, gt=0.0, lt=1.0, description="The learning rate is multiplied by this.")
    minimum: NotNegative = Field(default=0.0, description="Lowest learning rate.")


class TrainingSettings(Section):
    """The local work of a round. The manager announces it; every trainer does the same."""

    epochs: Positive = Field(default=1, description="Passes over the window in a round.")
    steps: Count = Field(default=0, description="Training steps in a round, going round the window; 0: whole epochs.")
    batch_size: Positive = Field(default=32, description="Readings in a training step.")
    learning_rate: AboveZero | None = Field(default=None, description="Step size; null: the model's own.")
    learning_rate_decay: float = Field(
        default=1.0,
        gt=0.0,
        le=1.0,
        description="Factor on learning_rate from one round to the next; 1: none.",
    )
    learning_rate_minimum: NotNegative = Field(default=0.0, description="The decay goes no lower than this step size.")
    optimizer: Text = Field(
        default="", description="Optimizer of the local fits, such as SGD(momentum=0.9); empty: the model's own."
    )
    objective: Text = Field(
        default="",
        description="What a local fit does beside the model's own loss: FedProx(mu=0.01) stays near the base, SCAFFOLD "
        "corrects each step by where all nodes go (with SGD, in mode sync); empty: nothing.",
    )
    window: Positive = Field(default=10_000, description="Newest readings that a fit uses at most.")
    min_readings: Positive = Field(default=256, description="Readings a node must hold to take part.")
    min_new_readings: Count = Field(
        default=0, description="Readings that must have come since the node's last update for it to take part again."
    )
    early_stopping: EarlyStoppingSettings = EarlyStoppingSettings()
    reduce_on_plateau: ReduceOnPlateauSettings = ReduceOnPlateauSettings()
