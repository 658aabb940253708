"""What differs between two versions."""

import numpy as np
import pytest

from dl_mqtt_clients.aggregation.store import Store
from dl_mqtt_clients.errors import ModelError
from dl_mqtt_clients.services.comparing import compare
from dl_mqtt_clients.wire.messages import Blob, Command, Manifest, Variable
from dl_mqtt_clients.wire.weights import encode

RNG = np.random.default_rng(3)
KERNEL, BIAS = RNG.normal(size=(3, 4)).astype(np.float32), np.zeros(4, np.float32)


@pytest.fixture
def store(tmp_path) -> Store:
    found = Store(tmp_path)
    found.fresh()
    return found


def put(store: Store, number: int, weights, *, base: str | None = None) -> str:
    data = encode(weights)
    name = f"{number:064x}"
    store.put_version(
        Manifest(
            stage="global", generation=store.generation, serial=1, version=name, number=number, round=number,
            lineage="e" * 64, base=base, blobs={"weights": Blob(sha256=store.put_blob(data), bytes=1, chunk_bytes=1)},
            variables=tuple(
                Variable(role="trainable", shape=w.shape, dtype="float32", path=f"layer/{i}")
                for i, w in enumerate(weights)
            ),
        )
    )  # fmt: skip
    return name


def test_change_and_norm_are_those_of_numpy_whichever_is_named_first(store):
    before = put(store, 1, [KERNEL, BIAS])
    after = put(store, 2, [KERNEL * 1.5, BIAS + 1], base=before)
    found = compare(store, Command(command="diff", version=after, other=before))
    assert [d.path for d in found] == ["layer/0", "layer/1"]
    assert found[0].change == pytest.approx(0.5 * np.linalg.norm(KERNEL), rel=1e-6)
    assert found[0].norm == pytest.approx(np.linalg.norm(KERNEL), rel=1e-6)
    assert (found[1].change, found[1].norm) == (2.0, 0.0)
    assert compare(store, Command(command="diff", version=before, other=after)) == found
    assert compare(store, Command(command="diff", version=after)) == found  # its base


def test_the_largest_values_that_float32_holds_do_not_overflow(store):
    large = np.full(4, np.finfo(np.float32).max)
    before = put(store, 1, [KERNEL, -large])
    found = compare(store, Command(command="diff", version=put(store, 2, [KERNEL, large]), other=before))
    assert np.isfinite(found[1].change)
    assert found[0].change == 0.0


@pytest.mark.parametrize(
    ("version", "other", "reason"),
    [(None, None, "expected a version"), ("0" * 64, None, "still kept"), ("1", None, "no base"), ("1", "3", "shapes")],
)
def test_what_cannot_be_compared_is_said(store, version, other, reason):
    names = {"1": put(store, 1, [KERNEL, BIAS]), "3": put(store, 3, [BIAS, KERNEL])}
    order = Command(command="diff", version=names.get(version, version), other=names.get(other))
    with pytest.raises(ModelError, match=reason):
        compare(store, order)
