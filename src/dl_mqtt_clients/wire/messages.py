"""Every JSON message of the protocol as a typed value; `encode` and `decode` are the only way in and out.

Unknown fields are ignored, so that a node may be newer than its manager. A message of a newer protocol
version than ours is refused with that reason; one version back is accepted. Sizes are limited before decoding.
"""

import threading
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from dl_mqtt_clients.errors import MessageError
from dl_mqtt_clients.wire.topics import PROTOCOL, Stage

MAX_JSON_BYTES: Final = 4 * 1024 * 1024
MAX_AGE_S: Final = 1e9  # 31 years

Count = Annotated[int, Meta(ge=0, le=2**53)]
Positive = Annotated[int, Meta(ge=1, le=2**53)]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]  # \Z: $ would let a line feed through
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]
Text = Annotated[str, Meta(max_length=2000)]
Age = Annotated[float, Meta(ge=0.0, le=MAX_AGE_S)]
Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]
VariableRole = Literal["trainable", "statistic", "scaler", "frozen", "personal"]
Task = Literal["anomaly", "supervised"]


class Message(Struct, frozen=True, kw_only=True):
    """What all have in common: the protocol version `v`."""

    v: int = PROTOCOL


# ---- model versions ------------------------------------------------------------------------------------------


class Variable(Struct, frozen=True, kw_only=True):
    """One variable of the model: its place in `weights` is its position in the manifest's list.

    Role: `trainable` by gradients · `statistic`: others that a training step assigns (BatchNorm's) · `scaler`: agreed,
    never merged · `frozen`: training leaves it alone · `personal`: trained, and stays on the node.
    """

    role: VariableRole
    shape: Annotated[tuple[Annotated[int, Meta(ge=0, le=2**31)], ...], Meta(max_length=32)]
    dtype: Annotated[str, Meta(max_length=16)]
    path: Text  # Keras's path, for people and for patterns; never a key (paths can collide)


class Blob(Struct, frozen=True, kw_only=True):
    """A content-addressed piece: chunks are retained at `blob/<sha256>/<k>`, k = 0 … ceil(bytes/chunk_bytes) - 1."""

    sha256: Sha256
    bytes: Positive
    chunk_bytes: Annotated[int, Meta(ge=1, le=64 * 1024 * 1024)]


class Verdicts(Struct, frozen=True, kw_only=True):
    """Labelled held-out readings by label and verdict at the agreed threshold."""

    true_positives: Count = 0
    false_positives: Count = 0
    false_negatives: Count = 0
    true_negatives: Count = 0


class Spread(Struct, frozen=True, kw_only=True):
    """Over the nodes: the mean hides the one that suffers."""

    worst: float
    median: float
    best: float
    worst_node: Name


class Metrics(Struct, frozen=True, kw_only=True):
    """What is known of a version. All but the training loss come from mergeable sums over the nodes."""

    loss: float | None = None  # mean training loss, weighted by examples
    holdout_loss: float | None = None  # mean score of held-out readings not labelled anomalous
    auroc: float | None = None  # from label-split score histograms, where labels exist
    average_precision: float | None = None  # likewise
    verdicts: Verdicts | None = None  # likewise
    loss_spread: Spread | None = None  # of the nodes' held-out losses
    auroc_spread: Spread | None = None
    examples: Count = 0
    nodes: Count = 0


class Manifest(Message, frozen=True, kw_only=True):
    """`model/<stage>`: all a node needs to rebuild a version. Nodes ignore a lower (generation, serial)."""

    stage: Stage
    generation: Positive
    serial: Positive
    version: Sha256
    number: Count
    round: Count
    lineage: Sha256
    base: Sha256 | None = None  # the version it was merged onto
    best: Sha256 | None = None  # the version it has to be as good as; its weights are the blob `best`
    task: Task = "anomaly"
    features: Annotated[tuple[Text, ...], Meta(max_length=100_000)] = ()
    categorical: Annotated[tuple[Count, ...], Meta(max_length=1_000)] = ()  # places of features that may be words
    blobs: dict[Annotated[str, Meta(max_length=64)], Blob]  # architecture, weights, and the best version's weights
    variables: Annotated[tuple[Variable, ...], Meta(max_length=100_000)]
    threshold: float | None = None
    share: Fraction = 1.0  # stage canary: of the predictors that take it
    metrics: Metrics = Metrics()


# ---- rounds --------------------------------------------------------------------------------------------------


class EarlyStopping(Struct, frozen=True, kw_only=True):
    patience: Positive
    delta: Annotated[float, Meta(ge=0)] = 0.0


class ReduceOnPlateau(Struct, frozen=True, kw_only=True):
    patience: Positive
    delta: Annotated[float, Meta(ge=0)] = 0.0
    cooldown: Count = 0
    factor: Annotated[float, Meta(gt=0, lt=1)] = 0.1
    minimum: Annotated[float, Meta(ge=0)] = 0.0


class Training(Struct, frozen=True, kw_only=True):
    """The local work of a round, as agreed by all."""

    epochs: Positive = 1
    batch_size: Positive = 32
    learning_rate: Annotated[float, Meta(gt=0)] | None = None  # None: the optimizer's own
    steps: Count = 0  # this many, going round the window; 0: whole epochs
    optimizer: Annotated[str, Meta(max_length=500)] = ""  # "SGD(momentum=0.9)"; empty: the model's own
    objective: Annotated[str, Meta(max_length=100)] = ""  # "FedProx(mu=0.01)"; empty: the model's own loss alone
    window: Positive = 10_000  # newest readings a fit uses at most
    min_readings: Positive = 256
    min_new_readings: Count = 0
    early_stopping: EarlyStopping | None = None
    reduce_on_plateau: ReduceOnPlateau | None = None


class Round(Message, frozen=True, kw_only=True):
    """`round`: the announcement. Its MQTT message expiry is what is left of the deadline."""

    generation: Positive
    round: Count
    attempt: Positive = 1
    phase: Literal["open", "idle", "paused", "scaling"]  # scaling: tell of your features
    mode: Literal["sync", "async"] = "sync"
    base: Sha256
    number: Count = 0  # of the base, for people
    fraction: Fraction = 1.0
    seed: Annotated[str, Meta(max_length=64)] = ""
    deadline_s: float = 0.0
    target_updates: Count = 0
    min_updates: Count = 0
    codec: Annotated[str, Meta(max_length=32)] = "float32"
    inline_bytes: Count = 0
    chunk_bytes: Annotated[int, Meta(ge=1, le=64 * 1024 * 1024)] = 256 * 1024
    require: Annotated[tuple[Text, ...], Meta(max_length=64)] = ()  # attributes of nodes that may take part: "gpu=true"
    quarantine: float | None = None  # readings that score higher are kept out of training windows
    released: Count = 0  # how often an operator has said that what comes now is normal
    training: Training = Training()


class Offer(Message, frozen=True, kw_only=True):
    """`node/<id>/trainer/offer`: an update is stored on the node and can be sent."""

    round: Count
    attempt: Positive
    base: Sha256
    sha256: Sha256
    bytes: Positive
    examples: Positive
    new_readings: Count = 0
    steps: Positive = 1  # local optimizer steps: FedNova's τ
    oldest_age_s: Age | None = None  # since the oldest reading of its window came, now; None: not known
    newest_age_s: Age | None = None  # since the newest one came
    inline: bool = False  # the chunks follow without waiting for a grant
    metrics: Annotated[dict[Annotated[str, Meta(max_length=64)], float | None], Meta(max_length=64)] = {}


class Reply(Message, frozen=True, kw_only=True):
    """`node/<id>/trainer/reply`: the manager's answer to the offer of `sha256`."""

    kind: Literal["grant", "wait", "receipt", "refusal"]
    round: Count
    attempt: Positive
    sha256: Sha256
    chunks: Annotated[tuple[Count, ...], Meta(max_length=4096)] = ()
    reason: Text = ""


class Participant(Struct, frozen=True, kw_only=True):
    node: Name
    examples: Positive
    weight: float = 0.0
    loss: float | None = None
    staleness: Count = 0  # versions between the update's base and the round's
    data_from: Text = ""  # when the first reading of its window came, by the manager's clock; empty: not known
    data_to: Text = ""  # when the last one came


class RoundReport(Struct, frozen=True, kw_only=True):
    """How a round ended: who came, who was refused and why, who was left out."""

    round: Count
    attempt: Positive
    outcome: Literal["merged", "abandoned", "rescaled", "returned"]  # returned: to the best version's weights
    drifting: Annotated[tuple[Name, ...], Meta(max_length=100)] = ()  # nodes that reported strong drift
    reason: Text = ""  # why the round was opened: continuous, interval, 5000 new readings, drift on …, command
    version: Sha256 | None = None
    number: Count = 0
    seconds: float = 0.0
    asked: Count = 0  # live nodes of the cohort
    participants: tuple[Participant, ...] = ()
    refused: dict[str, Text] = {}
    left_out: tuple[str, ...] = ()
    unnamed: Count = 0  # nodes of these lists that did not fit into the message
    metrics: Metrics = Metrics()
    threshold: float | None = None
    promotion: Text = ""  # what became of the version, and why: "promote: loss -3.1% …"
    base: Sha256 | None = None  # the version it was built on
    lineage: Sha256 | None = None  # of the version; versions of two lineages have different scalers
    codec: Text = ""  # how the updates travelled
    strategy: Text = ""  # how they became a version
    data_from: Text = ""  # of the participants' windows together; empty: not known of all of them
    data_to: Text = ""
    finished: Text = ""  # when, by the manager's clock: 2026-07-02T13:05:00+00:00


class History(Message, frozen=True, kw_only=True):
    """`history`: the last rounds, oldest first, for dashboards that join late."""

    generation: Positive
    rounds: tuple[RoundReport, ...] = ()
    omitted: Count = 0  # older rounds of those wanted that did not fit into the message


# ---- status --------------------------------------------------------------------------------------------------


class ManagerStatus(Message, frozen=True, kw_only=True):
    """`manager/status`; retained, also the last will (state `lost`)."""

    state: Literal["starting", "waiting", "scaling", "collecting", "paused", "finished", "stopped", "lost"]
    instance: Annotated[str, Meta(max_length=64)] = ""
    generation: Count = 0
    round: Count = 0
    attempt: Count = 0
    version: Count = 0
    production: Count = 0
    nodes: Count = 0
    accepted: Count = 0
    refused: dict[str, int] = {}  # reason -> how often, since start
    rejected: Count = 0  # versions in a row
    on_hold: bool = False  # after a rollback: nothing is promoted but by an operator's word
    detail: Text = ""  # what it waits for, for people
    last_error: Text = ""


class Readings(Struct, frozen=True, kw_only=True):
    """What a node's stream brought, since start."""

    received: Count = 0
    malformed: Count = 0
    dropped: Count = 0  # oldest ones, when the buffer was full
    rate: float = 0.0  # readings a second, lately
    last_error: Text = ""


class NodeStatus(Message, frozen=True, kw_only=True):
    """`node/<id>/<role>/status`; retained, also the last will (state `lost`)."""

    state: Literal["starting", "waiting", "fetching", "fitting", "offering", "scoring", "stopped", "lost"]
    instance: Annotated[str, Meta(max_length=64)] = ""
    version: Sha256 | None = None
    number: Count = 0
    backend: Annotated[str, Meta(max_length=32)] = ""
    readings: Readings = Readings()
    attributes: Annotated[
        tuple[Text, ...], Meta(max_length=64)
    ] = ()  # from its configuration: "gpu=true", "site=north"
    detail: Text = ""  # what it waits for or does, for people
    last_error: Text = ""
    # trainer
    round: Count = 0
    window: Count = 0
    new_readings: Count = 0
    progress: Fraction = 0.0  # of the present fit
    loss: float | None = None
    accepted: Count = 0
    refused: Count = 0
    drift: float | None = None  # population stability index of the newest readings against the last window's
    quarantined: Count = 0  # readings kept out of the window
    # predictor
    scored: Count = 0
    anomalies: Count = 0
    threshold: float | None = None
    version_scored: Count = 0  # with this version
    version_anomalies: Count = 0


class Histogram(Struct, frozen=True, kw_only=True):
    """Counts by bin of `aggregation.histogram`'s fixed bins; only bins that are not empty."""

    bins: Annotated[tuple[Count, ...], Meta(max_length=8192)] = ()
    counts: Annotated[tuple[Positive, ...], Meta(max_length=8192)] = ()


class Found(Struct, frozen=True, kw_only=True):
    """What a node finds of one version: mergeable sums over its held-out readings."""

    normal: Histogram = Histogram()  # not labelled anomalous
    anomalous: Histogram = Histogram()  # labelled anomalous
    labelled_normal: Histogram = Histogram()  # labelled normal: the negative class of the AUROC
    loss_sum: Annotated[float, Meta(ge=0)] = 0.0  # of the scores in `normal`
    readings: Count = 0  # in `normal`


class Statistics(Message, frozen=True, kw_only=True):
    """`node/<id>/<role>/statistics`: what it finds of a version and, on the same readings, of the best before it."""

    version: Sha256
    found: Found = Found()
    best: Sha256 | None = None
    found_of_best: Found | None = None


class Anomaly(Message, frozen=True, kw_only=True):
    """`node/<id>/predictor/anomaly`: at most N a minute; `suppressed` counts those not sent since the last."""

    id: str | int | None
    score: float
    threshold: float
    version: Sha256
    number: Count = 0
    suppressed: Count = 0
    timestamp: str | float | int | None = None


class Command(Message, frozen=True, kw_only=True):
    """`command`: an operator's word; answered on the MQTT 5 response topic.

    round: open one now · release: what comes now is normal, let it into the training windows · promote: this version,
    or the newest · rollback: this version, or the one in production before; unless `hold` is false, nothing else is
    promoted until `promote`.
    """

    command: Literal["start", "pause", "stop", "round", "promote", "rollback", "rescale", "release", "diff"]
    version: Sha256 | None = None
    hold: bool = True  # rollback
    other: Sha256 | None = None  # diff: the version to compare with; the one it was merged onto when there is none


class Difference(Struct, frozen=True, kw_only=True):
    """Of one variable between two versions."""

    path: Text
    role: VariableRole
    change: float  # Euclidean norm of the difference
    norm: float  # of the earlier one's values


class Answer(Message, frozen=True, kw_only=True):
    ok: bool
    message: Text = ""
    differences: Annotated[tuple[Difference, ...], Meta(max_length=100_000)] = ()


# ---- data broker ---------------------------------------------------------------------------------------------


class Scores(Message, frozen=True, kw_only=True):
    """`score/<id>`: one message for each scored batch, in order of arrival."""

    node: Name
    version: Sha256
    number: Count
    threshold: float | None
    ids: list[Any]
    scores: list[float]
    verdicts: list[bool]
    outputs: list[Any] | None = None  # supervised: the model's own outputs


M = TypeVar("M", bound=Message)

_encoder = msgspec.json.Encoder()
_decoders: dict[type, msgspec.json.Decoder[Any]] = {}
_building = threading.Lock()


class _Version(Struct):
    v: int = PROTOCOL


_version = msgspec.json.Decoder(_Version)


def encode(message: Message) -> bytes:
    return _encoder.encode(message)


def decode(payload: bytes | memoryview, kind: type[M], *, limit: int = MAX_JSON_BYTES) -> M:
    """JSON to a typed message. MessageError says what was wrong, with at most a line of the payload."""
    if len(payload) > limit:
        raise MessageError(f"{kind.__name__}: expected at most {limit} bytes. Received: {len(payload)}")
    decoder = _decoders.get(kind) or _decoder(kind)
    try:
        message: M = decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        _check_version(payload, kind)
        raise MessageError(f"{kind.__name__}: {_short(error)}") from error
    if not PROTOCOL - 1 <= message.v <= PROTOCOL:
        raise _wrong_version(kind, message.v)
    return message


def _decoder(kind: type[Message]) -> msgspec.json.Decoder[Any]:
    """One thread at a time: msgspec 0.22 ends the process when two threads meet a type for the first time at once."""
    with _building:
        if kind not in _decoders:
            _decoders[kind] = msgspec.json.Decoder(kind)
        return _decoders[kind]


def _short(error: Exception) -> str:
    """One printable line: the decoder repeats a wrong word as it came, and its place comes last."""
    text = str(error)
    if len(text) > 300:
        text = f"{text[:150]} … {text[-147:]}"
    return "".join(c if c.isprintable() else "?" for c in text)


def _check_version(payload: bytes | memoryview, kind: type[Message]) -> None:
    """A newer message may not even decode: then its version is the better reason."""
    try:
        version = _version.decode(payload).v
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    if version > PROTOCOL:
        raise _wrong_version(kind, version)


def _wrong_version(kind: type[Message], version: int) -> MessageError:
    return MessageError(
        f"{kind.__name__}: expected protocol version {PROTOCOL - 1} or {PROTOCOL}. Received: {str(version)[:20]}"
    )


for _kind in Message.__subclasses__():  # while there is one thread, with what they hold: other modules decode parts
    _decoder(_kind)
