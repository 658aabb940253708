"""Settings that each node has of its own, and those of data, generator and logs."""

from typing import Literal

from pydantic import Field

from dl_mqtt_clients.config.base import Section
from dl_mqtt_clients.config.fields import (
    AboveZero,
    Count,
    NameOrEmpty,
    Names,
    NotNegative,
    Positive,
    Seconds,
    Text,
    Texts,
)


class NodeSettings(Section):
    """Which device runs here."""

    id: NameOrEmpty = Field(default="", description="Name of this node; empty: the host's name.")
    attributes: Texts = Field(
        default=(), description="What this node is, such as gpu=true or site=north; rounds may ask for it."
    )
    overrides: Texts = Field(
        default=(),
        description="Training settings that this node takes from its own configuration, not from the announcement: "
        "some of batch_size, epochs, learning_rate, window, min_readings, min_new_readings.",
    )
    max_steps: Count = Field(
        default=0, description="Training steps this node makes in a round at most, for slow ones; 0: what was agreed."
    )
    state_dir: Text = Field(default="state", description="Folder of what must survive a restart.")


class LearningSettings(Section):
    """What computes."""

    backend: Literal["jax", "tensorflow", "torch"] = Field(
        default="jax", description="Keras's backend. The environment variable KERAS_BACKEND is honoured too."
    )
    gpu: bool = Field(default=False, description="Use the GPU if one answers; otherwise the CPU, with a message.")
    compile_cache: Text = Field(
        default="", description="Folder of compiled programs (JAX); empty: ~/.cache/fedlearn/compile."
    )


class ReadingSettings(Section):
    """The stream of readings of a node, and what is kept of it."""

    features: Texts = Field(
        default=(), description="Names of the features, in the model's order; empty: as many numbers as it has inputs."
    )
    label: Text = Field(default="label", min_length=1, description="Field of a reading that holds its label.")
    buffer: Positive = Field(default=20_000, description="Newest readings kept on the node.")
    holdout: float = Field(default=0.1, ge=0.0, lt=1.0, description="Share of the readings kept for evaluation.")
    holdout_block: Positive = Field(default=64, description="Readings in a row that are kept or trained on together.")
    spool: bool = Field(default=True, description="Keep the buffer on disk, so that it survives a restart.")


class PredictorSettings(Section):
    """Scoring of the stream."""

    max_batch: int = Field(default=4096, ge=1, le=1_048_576, description="Readings scored in one call at most.")
    max_wait_ms: float = Field(
        default=5.0,
        ge=0.0,
        le=60_000.0,
        description="Longest wait for more readings to score together, in milliseconds.",
    )
    runtime: Literal["keras", "onnx"] = Field(
        default="keras",
        description="What computes the scores. onnx: ONNX Runtime, without Keras, on the graph that the manager "
        "publishes (model.onnx).",
    )
    file: Text = Field(
        default="", description="An exported .onnx file to score with; empty: the federation's production version."
    )
    anomalies_per_minute: Count = Field(
        default=30,
        description="Anomalies reported to the federation, per minute and node at most; the others are counted.",
    )


class DataSettings(Section):
    """The data set that the generator replays and `model build` learns from."""

    source: Literal["synthetic", "beth", "table", "nsl_kdd", "arrays"] = Field(
        default="synthetic",
        description="synthetic: a made stand-in for BETH. beth: the official CSV files. nsl_kdd: its files. "
        "table: any CSV or Parquet file. arrays: a .npz file.",
    )
    path: Text = Field(default="", description="File or folder of the data set; synthetic needs none.")
    features: Texts = Field(default=(), description="Columns that are features; empty: all numeric ones.")
    categorical: Texts = Field(
        default=(),
        description="Features that are words or codes, not amounts; see vocabulary. They may be text columns.",
    )
    label: Text = Field(default="", description="Column that is the label; empty: the data set's usual one, or none.")
    group: Text = Field(default="", description="Column that says which node a row belongs to (partition: group).")
    partition: Literal["even", "group", "dirichlet"] = Field(
        default="even", description="How rows are shared out to nodes: evenly, by group, or with skewed labels."
    )
    alpha: AboveZero = Field(
        default=0.5, description="Label skew of partition dirichlet: the smaller, the more skewed."
    )
    seed: Count = Field(default=0, description="Seed of partition and synthesis.")
    rows: Count = Field(default=0, description="Rows to read at most; 0: all.")
    normal_only: bool = Field(default=True, description="Train on normal rows only (task anomaly).")


class GeneratorSettings(Section):
    """Replays the data set as live streams."""

    nodes: Names = Field(default=(), description="Ids of the nodes to feed; empty: this node.")
    rate: NotNegative = Field(
        default=200.0, description="Readings a second for each node; 0: as fast as the broker takes them."
    )
    batch: int = Field(default=1, ge=1, le=100_000, description="Readings in a message.")
    duration_s: Seconds = Field(default=0.0, description="Stops after this many seconds; 0: no limit.")
    start: Literal["normal", "anomalous"] = Field(
        default="normal", description="Kind of readings that a cycle begins with."
    )
    normal_s: Seconds = Field(default=0.0, description="Duration of the normal part of a cycle, in seconds.")
    anomalous_s: Seconds = Field(
        default=0.0,
        description="Duration of the anomalous part, in seconds. Both 0: no cycles, the data in its own order.",
    )
    loop: bool = Field(default=True, description="Begin again at the end of the data; otherwise stop there.")
    part: Literal["train", "validation", "test"] = Field(default="train", description="Part of the data set to replay.")
    labels: bool = Field(default=True, description="Send each reading's label along.")


class ArtifactSettings(Section):
    """Models and reports for people and other programs."""

    dir: Text = Field(default="artifacts", min_length=1, description="Folder; relative to where the command is run.")


class LogSettings(Section):
    """What a service says on its standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least important message that is written."
    )
    format: Literal["text", "json"] = Field(
        default="text", description="text: for people. json: one JSON object a line."
    )
