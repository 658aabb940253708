"""`fedlearn manager | train | predict | generate`: one service in this process, until it is done or told to stop."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dl_mqtt_clients.cli import options
from dl_mqtt_clients.cli.output import print_json
from dl_mqtt_clients.cli.running import Stopper

if TYPE_CHECKING:
    from collections import deque

    from dl_mqtt_clients.config import Settings
    from dl_mqtt_clients.services.manager import Manager as ManagerService
    from dl_mqtt_clients.services.node import Node as NodeService
    from dl_mqtt_clients.wire.messages import RoundReport


def manager(
    *,
    rounds: Annotated[
        int | None, typer.Option("--rounds", metavar="N", help="End after so many rounds; 0: never (rounds.count).")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin anew from the base model; earlier versions stay on disk.")
    ] = False,
    broker: options.Broker = None,
    federation: options.Federation = None,
    state: options.State = None,
    artifacts: options.Artifacts = None,
    backend: options.Backend = None,
    config: options.Config = None,
    sets: options.Set = None,
    log_level: options.LogLevel = None,
    log_format: options.LogFormat = None,
    json: options.Json = False,
) -> None:
    """Run the manager: it announces rounds and merges updates.

    It takes the base model of `fedlearn model build`, keeps every version on its disk, and writes the newest one to
    artifacts/updated_model. SIGTERM, SIGINT and SIGHUP let it finish its step, save and say goodbye.

    Example: fedlearn manager --rounds 20 --broker mqtt://localhost:1883
    """
    stopper = Stopper()
    settings = _prepare(
        config, sets, rounds=rounds, broker=broker, federation=federation, state=state, artifacts=artifacts,
        backend=backend, log_level=log_level, log_format=log_format,
    )  # fmt: skip
    from collections import deque  # noqa: PLC0415

    from dl_mqtt_clients.services.manager import Manager  # noqa: PLC0415 - takes its time

    reports: deque[RoundReport] = deque(maxlen=settings.rounds.history)
    service = Manager(settings=settings, fresh=fresh, on_round=reports.append)
    stopper.run(service)
    if json:
        print_json(_manager_summary(service, reports))


def train(
    *,
    node: options.Node = None,
    broker: options.Broker = None,
    data_broker: options.DataBroker = None,
    federation: options.Federation = None,
    state: options.State = None,
    backend: options.Backend = None,
    config: options.Config = None,
    sets: options.Set = None,
    log_level: options.LogLevel = None,
    log_format: options.LogFormat = None,
    json: options.Json = False,
) -> None:
    """Run a trainer: it learns from this node's readings.

    It reads them from the data broker, keeps the newest on disk, and sends only model updates to the federation
    broker. It needs no model file: the manager publishes the model.

    Example: fedlearn train --node jetson-07 --broker mqtt://manager.local:1883
    """
    stopper = Stopper()
    settings = _prepare(
        config, sets, node=node, broker=broker, data_broker=data_broker, federation=federation, state=state,
        backend=backend, log_level=log_level, log_format=log_format,
    )  # fmt: skip
    from dl_mqtt_clients.services.trainer import Trainer  # noqa: PLC0415 - takes its time

    _run_node(stopper, Trainer(settings=settings), json=json)


def predict(
    *,
    node: options.Node = None,
    broker: options.Broker = None,
    data_broker: options.DataBroker = None,
    federation: options.Federation = None,
    state: options.State = None,
    backend: options.Backend = None,
    runtime: options.Runtime = None,
    model: options.ModelFile = None,
    config: options.Config = None,
    sets: options.Set = None,
    log_level: options.LogLevel = None,
    log_format: options.LogFormat = None,
    json: options.Json = False,
) -> None:
    """Run a predictor: it scores this node's readings.

    Scores and verdicts go to the data broker, counts and a few anomalies a minute to the federation broker. On a small
    device `--runtime onnx` scores without Keras.

    Example: fedlearn predict --node jetson-07 --broker mqtt://manager.local:1883
    """
    stopper = Stopper()
    settings = _prepare(
        config, sets, node=node, broker=broker, data_broker=data_broker, federation=federation, state=state,
        backend=backend, runtime=runtime, model=model, log_level=log_level, log_format=log_format,
    )  # fmt: skip
    from dl_mqtt_clients.services.predictor import Predictor  # noqa: PLC0415 - takes its time

    _run_node(stopper, Predictor(settings=settings), json=json)


def generate(
    *,
    nodes: Annotated[
        str | None, typer.Option("--nodes", metavar="ID,ID,…", help="Nodes to feed (generator.nodes).")
    ] = None,
    node: options.Node = None,
    rate: Annotated[
        float | None, typer.Option("--rate", metavar="N", help="Readings a second and node; 0: all the broker takes.")
    ] = None,
    duration: Annotated[
        float | None, typer.Option("--duration", metavar="SECONDS", help="Stop after; 0: no limit.")
    ] = None,
    part: Annotated[
        str | None, typer.Option("--part", metavar="NAME", help="train, validation or test (generator.part).")
    ] = None,
    source: options.Source = None,
    data: options.Data = None,
    broker: Annotated[
        str | None,
        typer.Option("--data-broker", "--broker", metavar="URL", help="Broker of readings (data_broker.url)."),
    ] = None,
    config: options.Config = None,
    sets: options.Set = None,
    log_level: options.LogLevel = None,
    log_format: options.LogFormat = None,
    json: options.Json = False,
) -> None:
    """Replay a data set as live streams of readings.

    Every node gets its share of the data set, on a topic of its own, at the rate asked for.

    Example: fedlearn generate --nodes a,b,c --rate 500 --source synthetic
    """
    stopper = Stopper()
    settings = _prepare(
        config, sets, nodes=nodes, node=node, rate=rate, duration=duration, part=part, source=source, data=data,
        data_broker=broker, log_level=log_level, log_format=log_format,
    )  # fmt: skip
    from dl_mqtt_clients.services.generator import Generator  # noqa: PLC0415 - takes its time

    service = Generator(settings=settings)
    stopper.run(service)
    if json:
        print_json({"nodes": service.nodes, "sent": service.sent, "lost": service.lost})


def _prepare(config: Path | None, sets: list[str] | None, **given: object) -> "Settings":
    settings = options.settings(config, sets, **given)
    from dl_mqtt_clients.cli.logs import set_up_logs  # noqa: PLC0415 - costs `--help` otherwise

    set_up_logs(settings.log)
    return settings


def _run_node(stopper: Stopper, service: "NodeService[Any]", *, json: bool) -> None:
    stopper.run(service)
    if json:
        print_json({"node": service.node_id, "role": service.role, "status": service.current_status()})


def _manager_summary(service: "ManagerService", reports: "deque[RoundReport]") -> object:
    """How it stands at the end: its last status, the version in production, and the rounds of this run."""
    production = service.versions.production
    known = ("version", "number", "round", "threshold", "metrics")
    return {
        "status": service.current_status(),
        "production": production and {name: getattr(production, name) for name in known},
        "rounds": list(reports),
    }
