"""What a node says of its raw features before there is a scaler, as typed JSON: mergeable sums, never a reading.

Parts of a statistics message; what must fit together beyond type and size is checked where the sums are used
(`aggregation.feature_statistics`, `aggregation.vocabulary`).
"""

from typing import Annotated, Final

from msgspec import Meta, Struct

from dl_mqtt_clients.wire.messages import Count, Message, Positive, Sha256

LAST_BIN: Final = 4064  # of a sketch: 16 an octave over all of float32, 2⁻¹²⁶ … 2¹²⁸; negative values count downwards
MAX_VALUES: Final = 10_000  # of a category, from one node
MAX_CODE: Final = 2**24  # of a category's value
UNUSED: Final = 2**25  # in a vocabulary: a place without a value

SketchBin = Annotated[int, Meta(ge=-LAST_BIN, le=LAST_BIN)]
Code = Annotated[int, Meta(ge=-MAX_CODE, le=MAX_CODE)]


class FeatureSums(Struct, frozen=True, kw_only=True):
    """One numeric feature: Σ over finite readings as count, mean and M2 = Σ(x - mean)², and a sketch of filled bins."""

    count: Count = 0  # finite readings
    missing: Count = 0  # NaN or infinite
    mean: float = 0.0
    m2: Annotated[float, Meta(ge=0.0)] = 0.0
    bins: Annotated[tuple[SketchBin, ...], Meta(max_length=2 * LAST_BIN + 1)] = ()  # rising
    counts: Annotated[tuple[Positive, ...], Meta(max_length=2 * LAST_BIN + 1)] = ()  # of each bin


class CategorySums(Struct, frozen=True, kw_only=True):
    """One categorical feature: how often each value's code was seen; `other` counts values not told."""

    values: Annotated[tuple[Code, ...], Meta(max_length=MAX_VALUES)] = ()
    counts: Annotated[tuple[Positive, ...], Meta(max_length=MAX_VALUES)] = ()
    other: Count = 0


class FeatureReport(Message, frozen=True, kw_only=True):
    """`node/<id>/trainer/features`: what the readings of a node are like; sent while a scaler is being agreed on."""

    base: Sha256  # the version announced then
    readings: Count = 0
    features: Annotated[tuple[FeatureSums, ...], Meta(max_length=100_000)] = ()  # the numeric ones, in order
    categories: Annotated[tuple[CategorySums, ...], Meta(max_length=1_000)] = ()  # the categorical ones, in order
