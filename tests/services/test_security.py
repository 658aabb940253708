"""A whole federation behind user names, passwords and TLS; and what never leaves a node."""

import json

import numpy as np

from brokers import Mosquitto, our_configuration
from certificates import Authority
from dl_mqtt_clients.services.predictor import Predictor
from dl_mqtt_clients.services.trainer import Trainer
from dl_mqtt_clients.transport.memory import MemoryBroker
from service_helpers import feed, readings, scores_of, start_manager, trainers

ALL = {"rounds__target_updates": 3, "rounds__min_updates": 3}


def test_a_federation_behind_passwords_and_tls_learns_the_same(tmp_path, new_settings, watch, undisturbed):
    authority = Authority(tmp_path, "ours")
    certificate, key = authority.issue("broker")
    (tmp_path / "password").write_text("s3cret\n")
    lines = our_configuration(tmp_path / "broker", users={"fleet": "s3cret"})
    conf = f"{lines}\ncafile {authority.ca_file}\ncertfile {certificate}\nkeyfile {key}\n"
    conf = tls_beside_the_listener(conf)
    with Mosquitto(tmp_path / "broker", conf=conf, anonymous=False, listener=False, scheme="mqtts") as broker:
        login = {"username": "fleet", "password_file": str(tmp_path / "password"), "ca_file": str(authority.ca_file)}
        changes = {f"{section}__{name}": v for section in ("broker", "data_broker") for name, v in login.items()}
        settings = new_settings(broker.url, **ALL, **changes)
        seen = watch(broker.url, username="fleet", password="s3cret", ca_file=authority.ca_file)
        with trainers(settings), Predictor("p", settings=settings):
            manager = start_manager(settings, rounds=3).run()
            seen.status("p", lambda s: s.number == 3, role="predictor")
        seen.client.transport.stop()
    assert manager.versions.current.version == undisturbed


def tls_beside_the_listener(conf: str) -> str:
    """Mosquitto takes certificates for the listener that stands before them."""
    lines = conf.splitlines()
    tls = [line for line in lines if line.startswith(("cafile", "certfile", "keyfile"))]
    rest = [line for line in lines if line not in tls]
    at = next(i for i, line in enumerate(rest) if line.startswith("listener"))
    return "\n".join([*rest[: at + 1], *tls, *rest[at + 1 :]])


def test_a_wrong_password_is_said_and_tried_again(tmp_path, new_settings, caplog):
    conf = our_configuration(tmp_path / "broker", users={"fleet": "s3cret"})
    with Mosquitto(tmp_path / "broker", conf=conf, anonymous=False, listener=False) as broker:
        settings = new_settings(broker.url, broker__username="fleet", broker__password="guess-17")
        manager = start_manager(settings)
        with manager:
            from service_helpers import until

            until(lambda: "not authorized" in manager.last_error)
    assert "guess-17" not in caplog.text
    assert "guess-17" not in json.dumps(manager.last_error)


def test_readings_and_scores_never_reach_the_federations_broker(memory_url, new_settings, watch, connect):
    """Two brokers; on the federation's there is no reading topic, no score topic, and no value of any reading."""
    settings = new_settings(memory_url, data_broker__url="memory://of-the-node", rounds__target_updates=1)
    settings = settings.replace(**{"predictor.anomalies_per_minute": 1000})
    seen = watch(memory_url)
    everything = connect(memory_url, "everything")
    everything.transport.subscribe("#")
    sensor = connect("memory://of-the-node", "sensor")
    sensor.transport.subscribe("score/p")
    x = readings(1, 256).round(3)
    x[:, 0] = 31337.0  # conspicuous, and a constant to the model
    with Trainer("a", settings=settings), Predictor("p", settings=settings), start_manager(settings):
        seen.listens("a")
        seen.listens("p", "predictor")
        feed(sensor, "a", x)
        seen.manifest("production", lambda m: m.number >= 1 and m.threshold is not None)
        seen.status("p", lambda s: s.number >= 1, role="predictor")
        odd = x[:64] * np.float32(50)
        feed(sensor, "p", odd)
        sensor.wait(lambda: scores_of(sensor, "score/p"))
        seen.status("p", lambda s: s.anomalies > 0, role="predictor")
        sensor.transport.publish("reading/p", b'{"data": [31337.0, "31337.0"]}')
        seen.status("p", lambda s: s.readings.malformed == 1, role="predictor")
    topics = everything.topics()
    assert topics
    assert all(topic.startswith("fedlearn/1/") for topic in topics)
    values = {f"{v:.3f}".rstrip("0").encode() for v in np.concatenate([x, odd]).ravel() if abs(v) > 5}
    for delivery in everything.messages:
        if "/blob/" not in delivery.topic and "/update/" not in delivery.topic:
            assert b"31337" not in delivery.payload, delivery.topic
            if delivery.topic.endswith(("/anomaly", "/status", "/offer")):
                assert not [v for v in values if b":" + v + b"," in delivery.payload], delivery.topic
    MemoryBroker.named("of-the-node").forget()
