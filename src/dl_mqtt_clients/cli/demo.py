"""`fedlearn demo`."""

from pathlib import Path
from typing import Annotated, Final

import typer

from dl_mqtt_clients.cli import options
from dl_mqtt_clients.cli.demo_wishes import Interrupts, Wishes

FOLDER: Final = Path("artifacts/demo")


def demo(
    *,
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=10_000, metavar="N", help="Rounds to run.")] = 10,
    trainers: Annotated[int, typer.Option("--trainers", min=1, max=100, metavar="N", help="Trainers to start.")] = 3,
    predictors: Annotated[
        int, typer.Option("--predictors", min=0, max=100, metavar="N", help="Predictors to start.")
    ] = 2,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="PATH", help="BETH's or NSL-KDD's folder, or a table; else synthetic data."),
    ] = None,
    broker: Annotated[
        str | None, typer.Option("--broker", metavar="URL", help="A broker that runs already; else an embedded one.")
    ] = None,
    folder: Annotated[Path, typer.Option("--folder", metavar="DIR", help="Where everything is written.")] = FOLDER,
    backend: options.Backend = None,
    sets: options.Set = None,
    json: options.Json = False,
) -> None:
    """A whole federation on this machine, live, and what it learnt.

    Starts a broker, a manager, trainers, predictors and generators as processes of their own, shows them at work,
    compares the model before, after, and trained centrally, and writes a report. Ctrl-C ends it and keeps what was
    learnt.

    Example: fedlearn demo --rounds 20 --trainers 4 --data path/to/beth
    """
    interrupts = Interrupts()
    from dl_mqtt_clients.cli.demo_main import run_demo  # noqa: PLC0415 - takes its time

    wishes = Wishes(
        rounds=rounds, trainers=trainers, predictors=predictors, data=data, broker=broker, folder=folder,
        backend=backend, sets=tuple(sets or ()), json=json,
    )  # fmt: skip
    raise typer.Exit(run_demo(wishes, interrupts))
