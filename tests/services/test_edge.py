"""A predictor without Keras: ONNX Runtime on the graph that the manager publishes once, or on an exported file."""

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import msgspec
import numpy as np
import pytest

from dl_mqtt_clients.errors import ConfigurationError, ModelError
from dl_mqtt_clients.learning import onnx_graph
from dl_mqtt_clients.learning.onnx_file import standalone
from dl_mqtt_clients.services.predictor import Predictor
from dl_mqtt_clients.wire.messages import Command
from dl_mqtt_clients.wire.transfer import chunk_count
from onnx_helpers import dense_graph, node, onnx
from service_helpers import Forger, command, feed, readings, scores_of, start_manager, trainers

NAMES = ("a", "b", "c", "d", "e", "f")
MOST_BYTES = 150 * 1024 * 1024  # of a predictor's resident memory
ALL = {"rounds__target_updates": 3, "rounds__min_updates": 3, "promotion__gate": False}


@pytest.fixture
def forger(memory_url, watch):
    seen = watch(memory_url)
    seen.client.transport.subscribe("score/p")
    return Forger(seen, features=NAMES)


@pytest.fixture
def graph(forger):
    return dense_graph(forger.model.variables)


@pytest.fixture
def edge(memory_url, new_settings):
    """`edge()`: a predictor p on ONNX Runtime."""

    def make(**changes):
        return Predictor("p", settings=new_settings(memory_url, **{"predictor__runtime": "onnx", **changes}))

    return make


def predictor_says(seen, condition):
    return seen.status("p", condition, role="predictor")


def scored(seen, x):
    """These readings' scores and verdicts, in order."""
    before = len(scores_of(seen.client, "score/p"))

    def new():
        return scores_of(seen.client, "score/p")[before:]

    feed(seen.client, "p", x)
    seen.client.wait(lambda: sum(len(m.scores) for m in new()) >= len(x), f"{len(x)} scores")
    return np.array([s for m in new() for s in m.scores]), [v for m in new() for v in m.verdicts]


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * float(np.median(wanted)))


def test_it_scores_as_keras_does_and_a_new_version_needs_only_weights(forger, graph, edge):
    seen, x = forger.seen, readings(3, 40)
    first = forger.publish("production", threshold=0.5, more={"onnx": graph})
    with edge():
        said = predictor_says(seen, lambda s: s.version == first.version)
        assert said.backend == "onnxruntime"
        seen.listens("p", "predictor")
        scores, verdicts = scored(seen, x)
        close(scores, forger.model.scores(x))
        assert verdicts == (scores > 0.5).tolist()
        blob = first.blobs["onnx"]
        for index in range(chunk_count(blob.bytes, blob.chunk_bytes)):  # it is nowhere any more
            seen.client.transport.publish(seen.topics.blob(blob.sha256, index), b"", retain=True)
        forger.change()
        second = forger.publish("production", threshold=0.5, more={"onnx": graph}, leave_out=["onnx", "architecture"])
        predictor_says(seen, lambda s: s.version == second.version)
        again, _ = scored(seen, x)
    close(again, forger.model.scores(x))
    assert not np.allclose(again, scores)


def test_it_starts_from_its_disk_without_manager_or_broker(forger, graph, edge):
    seen, x = forger.seen, readings(3, 5)
    manifest = forger.publish("production", more={"onnx": graph})
    with edge() as first:
        predictor_says(seen, lambda s: s.version == manifest.version)
        seen.listens("p", "predictor")
        scored(seen, x)  # after this it has kept everything
    files = {path.name for path in first.folder.iterdir()}
    assert {"graph.onnx", "weights.safetensors", "production.json"} <= files
    assert "architecture.json" not in files
    with edge(broker__url="memory://elsewhere") as again:
        seen.client.wait(lambda: again.manifest == manifest, "the version on disk")
        seen.client.wait(lambda: again.stream.transport.connected, "its data broker")
        scores, _ = scored(seen, x)
    close(scores, forger.model.scores(x))


def test_a_federation_without_a_graph_is_told_apart_from_one_that_is_silent(forger, edge):
    forger.publish("production")
    with edge():
        said = predictor_says(forger.seen, lambda s: s.last_error)
    assert "expected a blob 'onnx' (it is published where the manager has model.onnx)" in said.last_error


@pytest.mark.parametrize("what", ["domain", "variables", "size", "nonsense"])
def test_a_graph_that_may_not_be_is_refused_and_the_old_model_goes_on(forger, graph, edge, what):
    seen, x = forger.seen, readings(3, 5)
    wrong = {
        "domain": dense_graph(forger.model.variables, last=[node("Gelu", ["score"], "z", domain="evil")]),
        "variables": graph.replace(b"0009", b"0099"),
        "nonsense": b"nonsense",
        "size": graph,
    }[what]
    first = forger.publish("production", more={"onnx": graph})
    with edge():
        predictor_says(seen, lambda s: s.version == first.version)
        seen.listens("p", "predictor")
        if what == "size":
            blobs = {**first.blobs, "onnx": msgspec.structs.replace(first.blobs["onnx"], bytes=2**40)}
            forger.publish("production", blobs=blobs)
        else:
            forger.publish("production", more={"onnx": wrong})
        said = predictor_says(seen, lambda s: s.last_error)
        reasons = {"domain": "domain evil", "variables": "its list of variables", "size": "at most"}
        assert reasons.get(what, "onnx: expected") in said.last_error
        scores, _ = scored(seen, x)
    assert said.version == first.version
    close(scores, forger.model.scores(x))


@pytest.fixture
def quick_graphs(monkeypatch, forger):
    """The manager's graphs are made by hand, and counted."""
    made = []

    def make(_architecture, **_limits):
        made.append(1)
        return dense_graph(forger.model.variables)

    monkeypatch.setattr(onnx_graph, "make_graph", make)
    return made


def test_the_manager_publishes_the_graph_once_and_predictors_follow(
    memory_url, new_settings, forger, edge, quick_graphs, connect
):
    settings = new_settings(memory_url, **ALL, model__onnx=True)
    seen, x = forger.seen, readings(3, 40)
    with trainers(settings), edge():
        manager = start_manager(settings, rounds=2).run()
        production = manager.versions.production
        predictor_says(seen, lambda s: s.version == production.version)
        seen.listens("p", "predictor")
        scores, _ = scored(seen, x)
        manager.versions._model.set_weights(manager.versions.weights)
        close(scores, manager.versions._model.scores(x))
    assert quick_graphs == [1]
    assert len({m.blobs["onnx"].sha256 for m in manager._store.versions()}) == 1


def test_switched_on_later_the_same_versions_name_it_too_and_so_do_those_rolled_back_to(
    memory_url, new_settings, forger, edge, quick_graphs, connect
):
    settings, seen = new_settings(memory_url, **ALL), forger.seen
    with trainers(settings):
        before = start_manager(settings, rounds=1).run().versions
    assert "onnx" not in before.current.blobs
    with edge(), start_manager(settings.replace(**{"model.onnx": True})) as manager:
        predictor_says(seen, lambda s: s.version == before.production.version)
        oldest = manager._store.versions()[0]
        answer = command(connect, seen, memory_url, Command(command="rollback", version=oldest.version))
        assert answer.ok, answer
        predictor_says(seen, lambda s: s.version == oldest.version)
    assert quick_graphs == [1]


def test_a_graph_that_disagrees_with_keras_stops_the_manager(memory_url, new_settings, forger, monkeypatch):
    model = onnx.ModelProto.FromString(dense_graph(forger.model.variables))
    model.graph.node[0].op_type = "Add"
    monkeypatch.setattr(onnx_graph, "make_graph", lambda _a, **_l: model.SerializeToString())
    with pytest.raises(ConfigurationError, match=r"model\.onnx: .* expected what Keras computes, to 1e-05"):
        start_manager(new_settings(memory_url, model__onnx=True))


@pytest.fixture
def file(forger, graph, tmp_path):
    """An exported file of the forger's model."""
    facts = {"version": "c" * 64, "number": "12", "task": "anomaly", "features": json.dumps(NAMES)}
    path = tmp_path / "model.onnx"
    path.write_bytes(standalone(graph, forger.model.get_weights(), threshold=0.5, facts=facts))
    return path


def test_an_exported_file_is_scored_with_whatever_the_federation_publishes(forger, edge, file):
    seen, x = forger.seen, readings(3, 40)
    with edge(predictor__runtime="keras", predictor__file=str(file)):
        said = predictor_says(seen, lambda s: s.state == "scoring")
        assert (said.version, said.number, said.threshold, said.backend) == ("c" * 64, 12, 0.5, "onnxruntime")
        seen.listens("p", "predictor")
        wanted = forger.model.scores(x)
        forger.change()
        forger.publish("production")
        scores, verdicts = scored(seen, x)
        close(scores, wanted)
        assert verdicts == (scores > 0.5).tolist()
        assert not seen.status("p", lambda s: s.scored >= 40, role="predictor").last_error


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"number": "many"}, "Expected `int`"),
        ({"version": "short"}, "regex"),
        ({"features": '["a", "b"]'}, "expected 6 names"),
        ({"task": "supervised"}, "Missing: output"),
    ],
)
def test_a_file_that_is_wrong_ends_the_predictor_with_the_reason(forger, graph, edge, file, facts, reason):
    file.write_bytes(standalone(graph, forger.model.get_weights(), threshold=None, facts=facts))
    with pytest.raises(ModelError, match=reason):
        edge(predictor__file=str(file)).run()


def test_a_file_without_weights_or_none_at_all_ends_it_too(forger, graph, edge, file):
    file.write_bytes(graph)
    with pytest.raises(ModelError, match=r"for 0000\. Received: nothing"):
        edge(predictor__file=str(file)).run()
    with pytest.raises(ModelError, match=r"expected an exported \.onnx file"):
        edge(predictor__file=str(file.parent / "missing.onnx")).run()
    file.write_bytes(bytes(2 * 16 * 1024 * 1024))
    with pytest.raises(ModelError, match=r"expected at most .* \(model\.max_parameters\)"):
        edge(predictor__file=str(file), model__max_parameters=1000).run()


COMMAND = """
import json, re, sys
from pathlib import Path
from dl_mqtt_clients.cli.main import main
try:
    main(sys.argv[1:])
finally:
    peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
    print(json.dumps({"peak": peak, "packages": sorted({name.split(".")[0] for name in sys.modules})}))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process's peak memory")
def test_the_command_imports_no_keras_and_stays_small_while_it_scores(
    unique_name, watch, shared_mosquitto_url, tmp_path
):
    url = shared_mosquitto_url
    seen = watch(url)
    forger = Forger(seen, features=NAMES)
    manifest = forger.publish("production", threshold=0.5, more={"onnx": dense_graph(forger.model.variables)})
    words = ["predict", "--runtime", "onnx", "--node", "p", "--broker", url, "--data-broker", url]
    words += ["--federation", unique_name, "--state", str(tmp_path / "state"), "--json"]
    seen.client.transport.subscribe("score/p")
    process = subprocess.Popen([sys.executable, "-c", COMMAND, *words], stdout=subprocess.PIPE, text=True)
    with ExitStack() as ends:
        ends.callback(process.kill)
        predictor_says(seen, lambda s: s.version == manifest.version)
        seen.listens("p", "predictor")
        for _ in range(5):
            scores, _ = scored(seen, readings(3, 4096))
        close(scores, forger.model.scores(readings(3, 4096)))
        process.terminate()
        said, found = (json.loads(part) for part in _documents(process.communicate(timeout=60)[0]))
    assert said["status"]["scored"] == 5 * 4096
    heavy = {"keras", "jax", "jaxlib", "tensorflow", "torch", "onnx", "polars", "matplotlib"}
    assert not heavy & set(found["packages"])
    assert "onnxruntime" in found["packages"]
    assert found["peak"] < MOST_BYTES


def _documents(text):
    """The JSON that the command writes, and the line after it."""
    first, _, last = text.strip().rpartition("\n")
    return first, last
