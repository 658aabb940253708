"""How a running federation is shown: drawn over and over on a terminal, or told in lines where there is none."""

from typing import Final, Protocol

from rich.console import Console
from rich.live import Live

from dl_mqtt_clients.dashboard.fleet import Fleet, is_alive
from dl_mqtt_clients.dashboard.lines import news
from dl_mqtt_clients.dashboard.situation import Situation
from dl_mqtt_clients.dashboard.terminal import screen

SILENCE_S: Final = 5.0  # after which a line says how far the round is


class View(Protocol):
    """Shown from `start` to `stop`."""

    every_s: float  # how often `show` should be called

    def start(self) -> None: ...

    def show(self, fleet: Fleet, situation: Situation) -> None: ...

    def stop(self) -> None: ...


class Screen:
    """The whole terminal, given back as it was."""

    every_s = 0.25

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, screen=True, transient=True)

    def start(self) -> None:
        self._live.start()

    def show(self, fleet: Fleet, situation: Situation) -> None:
        width, height = self._console.size
        self._live.update(screen(fleet, situation, width=width, height=height), refresh=True)

    def stop(self) -> None:
        self._live.stop()


class Lines:
    """A line for whatever happens, and now and then one when nothing does."""

    every_s = 0.5

    def __init__(self, console: Console) -> None:
        self._console = console
        self._before: Fleet | None = None
        self._phase = ""
        self._spoke_s = 0.0

    def start(self) -> None:
        pass

    def show(self, fleet: Fleet, situation: Situation) -> None:
        lines = [] if self._phase else [f"broker {situation.broker}"]
        lines += [] if situation.phase == self._phase else [situation.phase]
        lines += news(self._before or Fleet(topics=fleet.topics), fleet)
        if not lines and situation.elapsed_s - self._spoke_s >= SILENCE_S:
            lines = [_progress(fleet)]
        for line in lines:
            self._console.print(f"{situation.elapsed_s:5.1f} s  {line}", markup=False, highlight=False, soft_wrap=True)
            self._spoke_s = situation.elapsed_s
        self._before, self._phase = fleet, situation.phase

    def stop(self) -> None:
        pass


def _progress(fleet: Fleet) -> str:
    alive = sum(map(is_alive, fleet.nodes.values()))
    is_open = fleet.round is not None and fleet.round.phase == "open"
    open_round = f"round {fleet.round.round}: {fleet.round_done():.0%}, " if fleet.round and is_open else ""
    return f"{open_round}{alive} nodes, {fleet.reading_rate():,.0f} readings/s"


def view_for(console: Console) -> View:
    """Drawing needs a terminal of some size that knows Unicode."""
    drawable = console.is_terminal and not console.is_dumb_terminal and console.encoding.startswith("utf")
    roomy = console.width >= 60 and console.height >= 20
    return Screen(console) if drawable and roomy else Lines(console)
