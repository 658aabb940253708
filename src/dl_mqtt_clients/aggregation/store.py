"""The manager's disk: the truth of which the broker is a cache.

    generation.json           which fresh start this is
    blobs/<sha256>            architecture, weights: content-addressed
    versions/<sha256>.json    a version's record: the manifest as it was first published
    stages.json               the manifests of `global` and `production`, and the last serial
    open.json                 the open round: number, attempt, fraction
    rounds/<n>-<attempt>/     its spool
    history.jsonl             a report a round attempt; of older generations, history-<generation>.jsonl

A round is closed when `stages.json` names its version. Everything before that can be done again with the same result.
"""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
import numpy as np

from dl_mqtt_clients.aggregation.files import sync_folder, write_atomically
from dl_mqtt_clients.aggregation.history import HistoryFile
from dl_mqtt_clients.aggregation.spool import Spool
from dl_mqtt_clients.errors import StateError
from dl_mqtt_clients.wire.messages import Blob, Count, Manifest, RoundReport
from dl_mqtt_clients.wire.transfer import sha256
from dl_mqtt_clients.wire.weights import join

T = TypeVar("T")


class Stages(msgspec.Struct, frozen=True, kw_only=True):
    """What is published now, and what the next merge needs to know of the last."""

    serial: int = 0
    current: Manifest | None = None  # stage `global`
    production: Manifest | None = None
    canary: Manifest | None = None  # a candidate that some predictors try
    best: Manifest | None = None  # promoted, of this lineage: what a candidate has to be as good as
    on_hold: bool = False  # after a rollback: nothing is promoted but by an operator's word
    scaler: Literal["given", "agreed", "wanted"] = "given"  # wanted: a new one is to be agreed on
    released: int = 0  # how often an operator has said that what comes now is normal
    recent: dict[str, str] = {}  # node -> hash of its last update in a merged round: the same offer, the same receipt
    controls: dict[str, str] = {}  # lineage -> blob with the sum of its nodes' controls (SCAFFOLD); one at most
    strategy: str = ""  # how the last round was merged
    strategy_state: str | None = None  # blob with what that strategy keeps from round to round


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    generation: Count = 0


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What an open round was begun with: the settings may change between a crash and the restart."""

    strategy: str
    codec: str
    max_delta: float
    max_examples: int
    max_updates: int
    objective: str | None = None  # of the local fits; None: as the settings say


class OpenRound(msgspec.Struct, frozen=True, kw_only=True):
    round: int
    attempt: int = 1
    fraction: float = 1.0
    rules: Rules | None = None
    reason: str = ""  # why it was begun; empty: it is not yet


class Store:
    """One federation's state folder. Not thread-safe: the manager's thread owns it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._blobs = folder / "blobs"
        self._versions = folder / "versions"
        self._rounds = folder / "rounds"
        for part in (self._blobs, self._versions, self._rounds):
            part.mkdir(parents=True, exist_ok=True)
        sync_folder(folder)
        self.generation = (_load(folder / "generation.json", Generation) or Generation()).generation
        self.stages = _load(folder / "stages.json", Stages) or Stages()
        self._history = HistoryFile(folder / "history.jsonl")

    def fresh(self, *, at_least: int = 1) -> None:
        """Begin a new generation, numbered `at_least` so; earlier versions stay on disk and are followed no more.

        The manager passes the time in milliseconds: nodes ignore lower generations, and a manager whose disk was lost
        must be heard against what a broker still retains of the former one.

        A crash half-way leaves a store without published versions, for which a manager begins afresh again.
        """
        self.write_stages(Stages(serial=self.stages.serial))
        (self.folder / "open.json").unlink(missing_ok=True)
        self.drop_spools()
        self._history.begin_anew(self.folder / f"history-{self.generation}.jsonl")
        self.generation = max(self.generation + 1, at_least)
        write_atomically(self.folder / "generation.json", msgspec.json.encode(Generation(generation=self.generation)))

    # ---- blobs and versions ----

    def put_blob(self, data: bytes) -> str:
        name = sha256(data)
        if not (self._blobs / name).exists():
            write_atomically(self._blobs / name, data)
        return name

    def blob(self, name: str) -> bytes:
        try:
            data = (self._blobs / name).read_bytes()
        except OSError as error:
            raise StateError(f"{self._blobs / name}: cannot be read: {error}") from error
        if sha256(data) != name:
            raise StateError(f"{self._blobs / name}: its content has another hash")
        return data

    def weights(self, manifest: Manifest) -> list[np.ndarray]:
        """A version's values, one a variable."""
        names = [name for name in ("weights", "frozen") if name in manifest.blobs]
        return join({name: self.blob(manifest.blobs[name].sha256) for name in names}, manifest.variables)

    def put_version(self, manifest: Manifest) -> None:
        write_atomically(self._versions / f"{manifest.version}.json", msgspec.json.encode(manifest))

    def version(self, name: str) -> Manifest | None:
        return _load(self._versions / f"{name}.json", Manifest)

    def versions(self) -> list[Manifest]:
        """Every kept version of this generation, oldest first."""
        found = (_load(p, Manifest) for p in self._versions.glob("*.json"))
        return sorted((m for m in found if m and m.generation == self.generation), key=lambda m: m.number)

    def keep(self, newest: int) -> None:
        """Delete the oldest versions and the blobs only they needed; published ones stay."""
        stages = (self.stages.current, self.stages.production, self.stages.canary, self.stages.best)
        published = {m.version for m in stages if m}
        for manifest in self.versions()[: -newest or None]:
            if manifest.version not in published:
                (self._versions / f"{manifest.version}.json").unlink(missing_ok=True)
        needed = {b.sha256 for p in self._versions.glob("*.json") for b in self._blobs_of(p)}
        for stage in stages:
            needed |= {b.sha256 for b in stage.blobs.values()} if stage else set()
        needed |= {self.stages.strategy_state or "", *self.stages.controls.values()}
        for file in self._blobs.iterdir():
            if file.name not in needed:
                file.unlink(missing_ok=True)

    def write_stages(self, stages: Stages) -> None:
        write_atomically(self.folder / "stages.json", msgspec.json.encode(stages))
        self.stages = stages

    # ---- rounds ----

    def open_round(self) -> OpenRound | None:
        """The round that was open; None when its version was published just before a crash: it must not merge twice."""
        found = _load(self.folder / "open.json", OpenRound)
        closed = self.stages.current.round if self.stages.current else -1
        return found if found and found.round > closed else None

    def write_open_round(self, round_: OpenRound) -> Spool:
        """Make the open round durable; its spool, with whatever was accepted before a crash."""
        write_atomically(self.folder / "open.json", msgspec.json.encode(round_))
        return Spool(self._rounds / f"{round_.round:06d}-{round_.attempt}")

    def note_open_round(self, round_: OpenRound) -> None:
        """What has changed of it; its spool stays as it is."""
        write_atomically(self.folder / "open.json", msgspec.json.encode(round_))

    def drop_spools(self, *, but: Spool | None = None) -> None:
        for folder in self._rounds.iterdir():
            if but is None or folder != but.folder:
                shutil.rmtree(folder, ignore_errors=True)

    def append_history(self, report: RoundReport) -> None:
        """Make a report durable; one of a round attempt that is known already takes its place."""
        self._history.append(report)

    def history(self, newest: int, *, most_bytes: int | None = None) -> list[RoundReport]:
        """The newest reports, oldest first; one a round attempt: the last that was written of it.

        `most_bytes`: only as many of them as are no larger together, on disk.
        """
        return self._history.newest(newest, most_bytes=most_bytes)

    @property
    def reports(self) -> int:
        """How many of them are at hand."""
        return len(self._history)

    def free_bytes(self) -> int:
        there = os.statvfs(self.folder)  # asked for every offer: `shutil` takes three times as long
        return there.f_bavail * there.f_frsize

    def _blobs_of(self, path: Path) -> Iterable[Blob]:
        manifest = _load(path, Manifest)
        return manifest.blobs.values() if manifest else ()


def _load(path: Path, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, ValueError, RecursionError, OSError) as error:
        raise StateError(f"{path}: cannot be read: {error}") from error
