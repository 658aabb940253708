"""A synthetic stand-in for BETH, for those who have not downloaded it. Nothing in it was observed.

Eight hosts run the same kinds of process in different proportions. A process runs scripts (open, stat, read, close;
fork, exec, exit; …) whose calls have their kernel's number of arguments and plausible results. What a process is
decides over four features together: a session's process has an ordinary user, a parent of its own, and sees the
host's mounts; a contained service has a system user, init as parent, and its own mounts; and so on. Each of these
values is common. The attack in the test part, a session's process that was orphaned into a container, makes common
calls and has only common values, in a combination that does not occur otherwise: its size tells nothing, so that a
model must have learnt what goes together.

Unlike BETH, all parts come from the same eight hosts, so that each node of a federation has a test of its own.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from dl_mqtt_clients.data import beth
from dl_mqtt_clients.data.dataset import Splits
from dl_mqtt_clients.data.synthetic_processes import (
    ATTACK,
    HOST_PROPORTIONS,
    NORMAL,
    SCRIPTS,
    UNUSUAL,
    Argument,
    Call,
)
from dl_mqtt_clients.errors import DataError

Part = Literal["train", "validation", "test"]
Ints = npt.NDArray[np.int64]

HOSTS: Final = tuple(f"synthetic-{number}" for number in range(1, 9))
_SHARES: Final[dict[Part, float]] = {"train": 0.67, "validation": 0.165, "test": 0.165}  # as in BETH
_ATTACK_SHARE: Final = 0.45  # of the scripts, once it has begun
_ATTACK_MIX: Final = (0.55, 0.35, 0.1)  # of its kinds
_ATTACK_BEGINS: Final = 0.4  # of the test part's time
_UNUSUAL_SHARE: Final = 0.002  # of all scripts: `sus`, but not `evil`
_SECONDS_PER_SCRIPT: Final = 0.004
_SECONDS_PER_CALL: Final = 0.0005  # scripts of a host overlap
_HOST_NAMESPACE: Final = 4026531840

_KINDS: Final = tuple(kind for group in (*NORMAL, ATTACK, UNUSUAL) for kind in group)
_CALLS: Final = tuple(dict.fromkeys(call for script in SCRIPTS for call in script))
_LENGTHS: Final = np.array([len(script) for script in SCRIPTS])
_STARTS: Final = np.cumsum(_LENGTHS) - _LENGTHS
_CALL_AT: Final = np.array([_CALLS.index(call) for script in SCRIPTS for call in script])


def synthesise(*, rows: int = 100_000, seed: int = 0) -> Splits:
    """`rows` events in all parts together, prepared as BETH's. Same rows and seed, same data."""
    parts = {
        part: beth.to_dataset(beth.prepare(_events(n, part, seed)), label="sus", name=f"synthetic {part}")
        for part, n in _sizes(rows).items()
    }
    return Splits(**parts)


def write_csv(folder: Path, *, rows: int = 100_000, seed: int = 0) -> None:
    """The same events as BETH's three files, with all official columns."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, n in _sizes(rows).items():
        _official(_events(n, part, seed), seed).write_csv(folder / beth.FILES[part])


def _sizes(rows: int) -> dict[Part, int]:
    if rows < 100:
        raise DataError(f"synthetic rows: expected at least 100. Received: {rows}")
    sizes = {part: round(rows * share) for part, share in _SHARES.items()}
    return sizes | {"train": rows - sizes["validation"] - sizes["test"]}


def _events(rows: int, part: Part, seed: int) -> pl.DataFrame:
    """Events in order of time, with indices into `_KINDS` and `_CALLS` where the official columns have text."""
    rng = np.random.default_rng([seed, list(_SHARES).index(part)])
    scripts = rows // int(_LENGTHS.min()) + 1  # enough, however short they turn out
    host = rng.integers(len(HOSTS), size=scripts)
    quiet = rows if part != "test" else int(_ATTACK_BEGINS * rows / _LENGTHS.mean())
    kind, start = _processes(rng, host, seed, quiet_scripts=quiet)
    script = _draw(rng, np.array([kind.scripts for kind in _KINDS], float), kind)
    length = _LENGTHS[script]
    scripts = int(np.searchsorted(np.cumsum(length), rows)) + 1
    of, position = _expand(length[:scripts], rows)
    call = _CALL_AT[_STARTS[script[of]] + position]
    second = start[of] + (position + rng.random(rows)) * _SECONDS_PER_CALL
    order = np.argsort(second, kind="stable")
    of, call, second = of[order], call[order], second[order]
    return pl.DataFrame(
        {
            "timestamp": np.round(second, 6),
            **_identity(rng, kind[:scripts], of),
            "hostName": pl.Series(host[of]).replace_strict(range(len(HOSTS)), HOSTS, return_dtype=pl.Enum(HOSTS)),
            "eventId": np.array([call.event_id for call in _CALLS])[call],
            "argsNum": np.array([len(call.arguments) for call in _CALLS])[call],
            "returnValue": _results(rng, call),
            "sus": np.array([kind in ATTACK + UNUSUAL for kind in _KINDS], np.int8)[kind[of]],
            "evil": np.array([kind in ATTACK for kind in _KINDS], np.int8)[kind[of]],
            "kind": kind[of],
            "call": call,
        }
    )


def _processes(
    rng: np.random.Generator, host: Ints, seed: int, *, quiet_scripts: int
) -> tuple[Ints, npt.NDArray[np.float64]]:
    """[scripts] -> kind and start of the process that runs each."""
    n = len(host)
    kind = _draw(rng, _host_mixes(seed), host)
    unusual = rng.random(n) < _UNUSUAL_SHARE
    kind[unusual] = _KINDS.index(UNUSUAL[0])
    start = np.cumsum(rng.exponential(_SECONDS_PER_SCRIPT, n))
    attack = (rng.random(n) < _ATTACK_SHARE) & (np.arange(n) >= quiet_scripts)
    kind[attack] = rng.choice([_KINDS.index(kind) for kind in ATTACK], int(attack.sum()), p=_ATTACK_MIX)
    return kind, start


def _host_mixes(seed: int) -> npt.NDArray[np.float64]:
    """[hosts, kinds]: proportions; within a group of kinds they differ by host and seed."""
    rng = np.random.default_rng([seed, len(_SHARES)])
    mixes = np.zeros((len(HOSTS), len(_KINDS)))
    for host, proportions in enumerate(HOST_PROPORTIONS):
        for group, proportion in zip(NORMAL, proportions, strict=True):
            at = _KINDS.index(group[0])
            mixes[host, at : at + len(group)] = proportion * rng.dirichlet(np.ones(len(group)))
    return mixes


def _draw(rng: np.random.Generator, weights: npt.NDArray[np.float64], row: Ints) -> Ints:
    """One column of weights[row[i]] for each i, with that row's probabilities."""
    bounds = np.cumsum(weights, axis=1)
    bounds /= bounds[:, -1:]
    drawn: Ints = (rng.random(len(row))[:, None] >= bounds[row]).sum(axis=1)
    return drawn


def _expand(length: Ints, rows: int) -> tuple[Ints, Ints]:
    """Lengths of scripts -> [rows]: the script each row belongs to, and its position there."""
    of = np.repeat(np.arange(len(length)), length)[:rows]
    return of, np.arange(rows) - (np.cumsum(length) - length)[of]


def _identity(rng: np.random.Generator, kind: Ints, of: Ints) -> dict[str, Any]:
    """Process, parent, user and mounts: drawn for each script, the same for all its rows."""

    def flag(name: str) -> npt.NDArray[np.bool_]:
        return np.array([getattr(kind, name) for kind in _KINDS], bool)[kind]

    n = len(kind)
    process = np.where(flag("own_process"), rng.integers(300, 32_000, n), 1)
    parent = np.where(flag("own_parent"), rng.integers(300, 32_000, n), np.where(flag("own_process"), 1, 0))
    user = np.where(flag("ordinary_user"), 1000 + rng.integers(3, size=n), 0)
    user = np.where(flag("contained") & ~flag("ordinary_user"), 100 + rng.integers(4, size=n), user)
    namespace = np.where(flag("contained"), 4026532231 + rng.integers(3, size=n), _HOST_NAMESPACE)
    columns = {"processId": process, "parentProcessId": parent, "userId": user, "mountNamespace": namespace}
    return {name: values[of] for name, values in columns.items()}


def _results(rng: np.random.Generator, call: Ints) -> Ints:
    positive = np.array([call.p_positive for call in _CALLS])[call]
    error = np.array([call.p_error for call in _CALLS])[call]
    chance = rng.random(len(call))
    some = rng.integers(3, 4096, len(call))
    return np.where(chance < positive, some, np.where(chance < positive + error, -2, 0))


def _official(events: pl.DataFrame, seed: int) -> pl.DataFrame:
    """BETH's sixteen columns in their order."""
    rng = np.random.default_rng([seed, len(_SHARES) + 1])
    variant = rng.integers(4, size=len(events))
    call = events["call"].to_numpy()
    arguments = np.array([[_arguments(call, variant) for variant in range(4)] for call in _CALLS], object)
    stacks = np.array([str(rng.integers(1 << 46, 1 << 47, 1 + number % 3).tolist()) for number in range(64)], object)
    return events.select(
        "timestamp",
        "processId",
        pl.col("processId").alias("threadId"),
        "parentProcessId",
        "userId",
        "mountNamespace",
        _text("processName", [kind.name for kind in _KINDS], events["kind"].to_numpy()),
        "hostName",
        "eventId",
        _text("eventName", [call.name for call in _CALLS], call),
        pl.Series("stackAddresses", stacks[rng.integers(len(stacks), size=len(events))]),
        "argsNum",
        "returnValue",
        pl.Series("args", arguments[call, variant]),
        "sus",
        "evil",
    )


def _text(column: str, names: Sequence[str], index: Ints) -> pl.Series:
    return pl.Series(column, np.array(names, object)[index])


def _arguments(call: Call, variant: int) -> str:
    def shown(argument: Argument) -> str:
        name, kind, values = argument
        return f"{{'name': '{name}', 'type': '{kind}', 'value': {values[variant % len(values)]}}}"

    return f"[{', '.join(shown(argument) for argument in call.arguments)}]"
