"""What fields must be together."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from dl_mqtt_clients.config.mistakes import Mistake
from dl_mqtt_clients.config.words import received

if TYPE_CHECKING:
    from dl_mqtt_clients.config.broker import BrokerSettings
    from dl_mqtt_clients.config.settings import Settings


OVERRIDABLE: Final = ("batch_size", "epochs", "learning_rate", "window", "min_readings", "min_new_readings")


def broken_rules(settings: "Settings") -> list[Mistake]:
    """All rules that do not hold; in the order of the sections."""
    return [
        *_broker("broker", settings.broker),
        *_broker("data_broker", settings.data_broker),
        *_rounds(settings),
        *_training(settings),
        *_readings(settings),
        *_data(settings),
        *_generator(settings),
    ]


def _broken(section: str, field: str, expected: str, value: object, *others: str) -> Mistake:
    """`others` are the fields it was compared with, dotted."""
    involved = tuple(tuple(name.split(".")) for name in others)
    return Mistake((section, field), expected, received(value), involved)


def _broker(name: str, broker: "BrokerSettings") -> Iterator[Mistake]:
    if broker.password_file and broker.password.get_secret_value():
        words = f"nothing when {name}.password is given"
        yield _broken(name, "password_file", words, broker.password_file, f"{name}.password")
    if bool(broker.cert_file) != bool(broker.key_file):
        missing, given = ("key_file", "cert_file") if broker.cert_file else ("cert_file", "key_file")
        yield _broken(name, missing, f"a file, since {name}.{given} is given", "", f"{name}.{given}")
    tls_files = [field for field in ("ca_file", "cert_file", "key_file") if getattr(broker, field)]
    if tls_files and not broker.tls:
        words = f"mqtts://, since {name}.{tls_files[0]} is given"
        yield _broken(name, "url", words, broker.url, *(f"{name}.{field}" for field in tls_files))


def _rounds(settings: "Settings") -> Iterator[Mistake]:
    rounds = settings.rounds
    if 0 < rounds.target_updates < rounds.min_updates:
        words = f"at most rounds.target_updates, which is {rounds.target_updates}"
        yield _broken("rounds", "min_updates", words, rounds.min_updates, "rounds.target_updates")


def _training(settings: "Settings") -> Iterator[Mistake]:
    training, words = settings.training, "a number, since training.learning_rate_decay is given"
    if training.learning_rate_decay < 1.0 and training.learning_rate is None:
        yield _broken("training", "learning_rate", words, None, "training.learning_rate_decay")
    for name in settings.node.overrides:
        if name not in OVERRIDABLE:
            yield _broken("node", "overrides", f"some of {', '.join(OVERRIDABLE)}", name)


def _readings(settings: "Settings") -> Iterator[Mistake]:
    least, buffer = settings.training.min_readings, settings.readings.buffer
    if least > buffer:
        words = f"at most readings.buffer, which is {buffer}"
        yield _broken("training", "min_readings", words, least, "readings.buffer")


def _data(settings: "Settings") -> Iterator[Mistake]:
    data = settings.data
    if data.source in ("beth", "table", "nsl_kdd") and not data.path:
        yield _broken("data", "path", f"a path, since data.source is {data.source}", "", "data.source")
    if data.source == "table" and data.partition == "group" and not data.group:
        yield _broken("data", "group", "a column, since data.partition is group", "", "data.partition")
    others = [name for name in data.categorical if data.features and name not in data.features]
    if others:
        yield _broken("data", "categorical", "some of data.features", others, "data.features")


def _generator(settings: "Settings") -> Iterator[Mistake]:
    generator = settings.generator
    if bool(generator.normal_s) != bool(generator.anomalous_s):
        zero, given = ("anomalous_s", "normal_s") if generator.normal_s else ("normal_s", "anomalous_s")
        words = f"a number > 0, since generator.{given} is given"
        yield _broken("generator", zero, words, 0.0, f"generator.{given}")
