"""Services as processes: signals, wills, and other people's tools."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from dl_mqtt_clients.learning.files import save_base
from dl_mqtt_clients.learning.model import FederatedModel
from dl_mqtt_clients.services.predictor import Predictor
from dl_mqtt_clients.wire.messages import Scores, decode
from service_helpers import SCALER, Forger, core, feed, readings, start_manager, trainers

SUB, PUB = shutil.which("mosquitto_sub"), shutil.which("mosquitto_pub")
needs_tools = pytest.mark.skipif(not (SUB and PUB), reason="mosquitto_sub and mosquitto_pub are not installed")


class Command:
    """`fedlearn …` in a process of its own."""

    def __init__(self, settings, *args):
        flat = {
            f"{s}.{k}": v for s, section in settings.model_dump(exclude_unset=True).items() for k, v in section.items()
        }
        sets = [
            f"--set={name}={json.dumps(value) if isinstance(value, list) else value}" for name, value in flat.items()
        ]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        command = [sys.executable, "-m", "dl_mqtt_clients.cli.main", *args, *sets]
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)

    def end(self, number):
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=30)
        return self.process.returncode, errors.decode()[-3000:]


@pytest.fixture
def fedlearn():
    """`fedlearn(settings, "train", "--node", "a")`; killed at the end if it still runs."""
    running = []

    def start(settings, *args):
        running.append(Command(settings, *args))
        return running[-1]

    yield start
    for one in running:
        if one.process.poll() is None:
            one.process.kill()
            one.process.communicate()


def test_every_service_says_goodbye_on_every_signal_and_a_killed_ones_will_says_lost(
    shared_mosquitto_url, new_settings, watch, fedlearn, tmp_path
):
    settings = new_settings(shared_mosquitto_url, rounds__target_updates=1)
    save_base(FederatedModel.from_core(core(), scaler=SCALER), tmp_path / "artifacts" / "model")
    seen = watch(shared_mosquitto_url)
    seen.deadline_s = 80.0  # seven processes import their backend on a few cores
    signals = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL]
    predictors = {f"p{n.value}": (n, fedlearn(settings, "predict", "--node", f"p{n.value}")) for n in signals}
    manager = fedlearn(settings, "manager")
    trainer = fedlearn(settings, "train", "--node", "t1")
    generator = fedlearn(settings, "generate", "--nodes", "t1", "--rate", "500", "--source", "synthetic")
    for node in predictors:
        seen.status(node, lambda s: s.state != "starting", role="predictor")
    seen.status("t1", lambda s: s.readings.received + s.readings.malformed > 100)
    seen.manager(lambda s: s.state in ("waiting", "collecting"))
    for node, (number, command) in predictors.items():
        code, errors = command.end(number)
        last = seen.status(node, lambda s: s.state in ("stopped", "lost"), role="predictor")
        assert (code, last.state) == ((-9, "lost") if number == signal.SIGKILL else (0, "stopped")), errors
    for command, number in ((generator, signal.SIGINT), (trainer, signal.SIGHUP), (manager, signal.SIGTERM)):
        code, errors = command.end(number)
        assert code == 0, errors
    seen.status("t1", lambda s: s.state == "stopped")
    seen.manager(lambda s: s.state == "stopped")
    assert (tmp_path / "artifacts" / "updated_model" / "model.keras").exists()


def test_a_signal_in_mid_fit_ends_the_process_within_a_batch(shared_mosquitto_url, new_settings, watch, fedlearn):
    """Twenty hours of epochs."""
    settings = new_settings(shared_mosquitto_url, training__epochs=10**6)
    seen = watch(shared_mosquitto_url)
    forger = Forger(seen)
    manifest = forger.publish("global")
    command = fedlearn(settings, "train", "--node", "busy")
    seen.listens("busy")
    feed(seen.client, "busy", readings(1, 256))
    from dl_mqtt_clients.wire.messages import Round, Training, encode

    training = Training(epochs=10**6, min_readings=64)
    announced = Round(generation=10, round=1, phase="open", base=manifest.version, training=training)
    seen.client.transport.publish(seen.topics.round, encode(announced), retain=True)
    seen.status("busy", lambda s: s.state == "fitting")
    code, errors = command.end(signal.SIGTERM)
    assert code == 0, errors
    seen.status("busy", lambda s: s.state == "stopped")


@needs_tools
def test_mosquitto_sub_shows_readable_json_for_everything_but_chunks(
    shared_mosquitto_url, new_settings, watch, tmp_path
):
    settings = new_settings(shared_mosquitto_url, rounds__target_updates=2, transfer__inline_bytes=0)
    port = shared_mosquitto_url.rpartition(":")[2]
    topic = f"fedlearn/1/{settings.federation.name}/#"
    listener = subprocess.Popen(
        [SUB, "-p", port, "-V", "5", "-t", topic, "-F", "%t %x"], stdout=subprocess.PIPE, text=True
    )
    try:
        seen = watch(shared_mosquitto_url)
        with trainers(settings, ["a", "b"]), Predictor("p", settings=settings):
            manager = start_manager(settings, rounds=2)
            with manager:
                assert manager.wait(20)
            seen.status("p", lambda s: s.number == 2, role="predictor")
        seen.client.transport.publish(f"{topic[:-1]}end", b"{}")
        lines = []
        for line in listener.stdout:
            name, data = line.rstrip("\n").split(" ", 1)
            lines.append((name.removeprefix(topic[:-1]), bytes.fromhex(data)))
            if lines[-1][0] == "end":
                break
    finally:
        listener.kill()
        listener.communicate()
    kinds = set()
    for name, data in lines:
        if name.startswith("blob/") or "/update/" in name or name == "end" or not data:
            continue
        assert json.loads(data)["v"] == 1, name
        kinds.add(name.split("/")[-1])
    assert kinds >= {"status", "round", "global", "production", "history", "offer", "reply", "statistics"}


@needs_tools
def test_mosquitto_pub_feeds_readings_and_gets_scores_back(shared_mosquitto_url, new_settings, watch):
    settings = new_settings(shared_mosquitto_url)
    port = shared_mosquitto_url.rpartition(":")[2]
    seen = watch(shared_mosquitto_url)
    forger = Forger(seen)
    forger.publish("production", threshold=0.0)
    node = settings.federation.name
    listener = subprocess.Popen([SUB, "-p", port, "-t", f"score/{node}", "-C", "1"], stdout=subprocess.PIPE)
    try:
        x = readings(1, 2)
        with Predictor(node, settings=settings):
            seen.status(node, lambda s: s.number == 1, role="predictor")
            seen.listens(node, "predictor")
            reading = json.dumps({"data": x.tolist(), "id": "hand-made"})
            # Asked for again should the listener have been too late for the first.
            while True:
                subprocess.run([PUB, "-p", port, "-t", f"reading/{node}", "-m", reading], check=True, timeout=10)
                try:
                    out, _ = listener.communicate(timeout=1)
                    break
                except subprocess.TimeoutExpired:
                    continue
    finally:
        listener.kill()
    scores = decode(out.strip(), Scores)
    assert scores.ids == ["hand-made/0", "hand-made/1"]
    np.testing.assert_allclose(scores.scores, forger.model.scores(x), rtol=1e-5)
    assert scores.verdicts == [True, True]
