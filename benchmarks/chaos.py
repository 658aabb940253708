"""Broker, manager and four trainers, killed (-9) at random and started again, for 100 rounds.

Fixed windows, all nodes awaited: the final weights must be those of an undisturbed run, bit by bit. Live windows, sync
and async: every round closes, and every update with a receipt is in exactly one version. Mosquitto keeps its
persistence file or loses it, by lot, at every restart; the embedded broker keeps nothing.

FEDLEARN_BENCH_ROUNDS and FEDLEARN_BENCH_SEED change length and luck.
"""

import os
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.chaos_check import Found, check
from benchmarks.chaos_nodes import Ledger, node_names
from benchmarks.chaos_processes import EmbeddedVictim, MosquittoVictim, Victim, service
from benchmarks.chaos_timeline import Timeline, draw, timeline
from benchmarks.common import ROOT, mosquitto_binary

ROUNDS = int(os.environ.get("FEDLEARN_BENCH_ROUNDS", "100"))
SEED = int(os.environ.get("FEDLEARN_BENCH_SEED", "1"))
WINDOWS = {"fixed": "fixed windows", "live": "live windows, sync", "async": "live windows, async"}
PLOT = ROOT / "artifacts" / "bench" / "chaos.svg"
STUCK_AFTER_S = 180.0  # without a new round


@dataclass
class Outcome:
    found: Found
    seconds: float
    kills: dict[str, int]
    longest_s: float  # between two rounds
    timeline: Timeline
    faults: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> list[str]:
        return [*self.faults, *self.found.faults]


def run() -> list[dict[str, object]]:
    brokers = (["mosquitto"] if mosquitto_binary() else []) + ["embedded"]
    rows: list[dict[str, object]] = []
    timelines: dict[str, Timeline] = {}
    undisturbed = federate("fixed", brokers[0], rounds=ROUNDS, seed=None)
    for broker in brokers:
        rounds = ROUNDS if broker == brokers[0] else max(ROUNDS // 4, 1)
        same = undisturbed if rounds == ROUNDS else federate("fixed", broker, rounds=rounds, seed=None)
        disturbed = federate("fixed", broker, rounds=rounds, seed=SEED)
        equal = disturbed.found.version == same.found.version
        what = f"fixed windows, {broker}"
        rows.append(_row(what, disturbed, rounds, "equal bits" if equal else "OTHER BITS"))
        timelines[what] = disturbed.timeline
    for kind in ("live", "async"):
        disturbed, what = federate(kind, brokers[0], rounds=ROUNDS, seed=SEED), f"{WINDOWS[kind]}, {brokers[0]}"
        rows.append(_row(what, disturbed, ROUNDS))
        timelines[what] = disturbed.timeline
    draw(timelines, PLOT)
    return rows


def _row(what: str, outcome: Outcome, rounds: int, bits: str = "") -> dict[str, object]:
    found = outcome.found
    counts = f"{found.rounds} of {rounds} rounds, {sum(outcome.kills.values())} kills, {found.receipts} receipts"
    told = f"{counts}, {found.merged} merged, {found.abandoned} in attempts without quorum, {found.waiting} waiting"
    print(what, told, outcome.kills, *outcome.wrong[:20], sep="\n  ", flush=True)
    return {
        "what": what,
        "measured": f"{told}; {outcome.seconds:.0f} s, longest gap {outcome.longest_s:.1f} s",
        "against": "the undisturbed run" if bits else "every version computed again",
        "ratio": f"{bits} {len(outcome.wrong)} faults".strip(),
        "target": "equal bits, 0 faults" if bits else "0 faults",
    }


def federate(
    kind: str, broker: str, *, rounds: int, seed: int | None, keep: Path | None = None, seconds: float = 3600.0
) -> Outcome:
    """One whole federation; `seed` None: nobody is killed. `keep`: the folder to work in, left as it is."""
    if keep is not None:
        return _federate(keep, kind, broker, rounds, seed, seconds)
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        return _federate(Path(folder), kind, broker, rounds, seed, seconds)


def _federate(folder: Path, kind: str, broker: str, rounds: int, seed: int | None, seconds: float) -> Outcome:
    hub = (MosquittoVictim if broker == "mosquitto" else EmbeddedVictim)(folder / "broker")
    manager = service("manager", folder, hub.url, kind, rounds)
    trainers = [service("trainer", folder, hub.url, kind, rounds, node) for node in node_names()]
    others = [] if kind == "fixed" else [service("generator", folder, hub.url, kind, rounds)]
    chaos = Chaos(folder, hub, manager, trainers, others)
    began = time.monotonic()
    try:
        chaos.start()
        chaos.until_finished(random.Random(seed) if seed is not None else None, until=began + seconds)
    finally:
        chaos.stop()
    seconds = time.monotonic() - began
    victims = [hub, manager, *trainers]
    kills = {victim.name: victim.kills for victim in victims}
    return Outcome(check(folder), seconds, kills, chaos.longest_s, timeline(folder), chaos.faults)


class Chaos:
    """Kills when a round has just begun, or at any time; what is dead comes back within a second."""

    def __init__(
        self, folder: Path, hub: MosquittoVictim | EmbeddedVictim, manager: Victim, trainers: list[Victim],
        others: list[Victim],
    ) -> None:  # fmt: skip
        self.faults: list[str] = []
        self.longest_s = 0.0
        self._hub, self._manager, self._trainers, self._others = hub, manager, trainers, others
        self._ledger = folder / "ledger" / "manager.jsonl"
        self._own_ledger = Ledger(folder / "ledger", "chaos")
        self._merges, self._last = 0, time.monotonic()

    def start(self) -> None:
        for process in (self._hub, self._manager, *self._trainers, *self._others):
            process.start()

    def stop(self) -> None:
        for process in (*self._others, *self._trainers, self._manager, self._hub):
            process.stop()

    def until_finished(self, luck: random.Random | None, *, until: float) -> None:
        while self._goes_on(until):
            if luck is None:
                self._wait(0.2)
                continue
            if luck.random() < 0.75:
                self._wait_for_a_round(until)
                self._wait(0.4 * luck.random() ** 3)  # most often while much is under way
            else:
                self._wait(luck.uniform(0.0, 2.0))  # whatever they are at, starting perhaps
            victims = luck.sample([self._hub, self._manager, *self._trainers], luck.choice([1, 1, 1, 2]))
            if self._manager in victims and self._manager.ended is not None:
                return  # it is done
            for victim in victims:
                self._own_ledger.write("kill", victim=victim.name)
                victim.kill()
            self._wait(luck.uniform(0.0, 1.0))
            if self._hub in victims and luck.random() < 0.5:
                self._hub.forget()
            for victim in victims:
                victim.start()

    def _goes_on(self, until: float) -> bool:
        """Until the manager has ended by itself; a service that fails, or hangs, is a fault."""
        self._look()
        for process in (*self._trainers, *self._others, self._hub):
            if process.ended is not None:
                self.faults.append(f"{process.name} ended by itself: exit code {process.ended}")
                process.start()
        if self._manager.ended is not None:
            if self._manager.ended:
                self.faults.append(f"the manager failed: exit code {self._manager.ended}")
            return False
        if time.monotonic() - self._last > STUCK_AFTER_S or time.monotonic() > until:
            self.faults.append(f"no new round for {time.monotonic() - self._last:.0f} s after {self._merges} merges")
            return False
        return True

    def _wait_for_a_round(self, until: float) -> None:
        merges = self._merges
        while self._merges == merges and self._goes_on(until):
            time.sleep(0.01)

    def _wait(self, seconds: float) -> None:
        time.sleep(seconds)
        self._look()

    def _look(self) -> None:
        merges = _count(self._ledger, b'"merging"')
        if merges != self._merges:
            now = time.monotonic()
            if self._merges:
                self.longest_s = max(self.longest_s, now - self._last)
            self._merges, self._last = merges, now


def _count(file: Path, word: bytes) -> int:
    return file.read_bytes().count(word) if file.exists() else 0


def main(kind: str, broker: str, folder: str, seed: str = "") -> None:
    """One federation whose folder stays, for looking closer: `python -m benchmarks.chaos fixed mosquitto /tmp/x 3`."""
    outcome = federate(kind, broker, rounds=ROUNDS, seed=int(seed) if seed else None, keep=Path(folder))
    _row(f"{kind} {broker}", outcome, ROUNDS)
    print(f"{outcome.seconds:.1f} s, longest gap {outcome.longest_s:.1f} s, version {outcome.found.version[:16]}")


if __name__ == "__main__":
    import sys

    main(*sys.argv[1:])
