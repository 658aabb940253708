"""What must hold after the chaos: every update with a receipt is in exactly one version, and in it once.

The manager's word is not taken for it: every version is computed again from its base and from the updates kept by the
trainers, and compared. One that was lost, counted twice or damaged would show.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from dl_mqtt_clients.aggregation.store import Store
from dl_mqtt_clients.wire.messages import Manifest, RoundReport
from dl_mqtt_clients.wire.weights import decode, update_positions

TOLERANCE = 1e-7  # of weights below 1: the sum is in fixed point, and a float32 is the result


@dataclass(frozen=True)
class Found:
    """What a run left behind."""

    version: str  # hash of the newest version
    rounds: int
    receipts: int  # different updates that the manager promised to count
    merged: int  # updates in versions
    abandoned: int  # promised, but in an attempt that missed its quorum: announced again, as designed
    waiting: int  # promised, in the round that was open at the end
    faults: tuple[str, ...]


def check(folder: Path) -> Found:
    """Read the ledgers and the manager's folder; nothing may run there any more."""
    ledger = _read(folder / "ledger")
    store = Store(folder / "state" / "manager")
    current = store.stages.current
    if current is None:
        return Found("", 0, 0, 0, 0, 0, ("there is no version",))
    offered = {(e["node"], e["sha256"]): e for e in ledger if e["what"] == "offered"}
    promised = {(e["node"], e["sha256"]) for e in ledger if e["what"] in ("receipt", "heard")}
    merges = {e["round"]: e for e in ledger if e["what"] == "merging" and e["round"] <= current.round}
    counted = Counter((node, sha) for merge in merges.values() for node, sha in merge["updates"].items())
    waiting = _waiting(folder)
    reports = store.history(5000)
    gone = {(r.round, r.attempt) for r in reports if r.outcome == "abandoned"}
    lost = {p for p in promised if p not in counted and p not in waiting}
    abandoned = {p for p in lost if p in offered and (offered[p]["round"], offered[p]["attempt"]) in gone}
    faults = [f"lost: {_name(p)} of round {offered.get(p, {}).get('round')}" for p in sorted(lost - abandoned)]
    faults += [f"counted {n} times: {_name(p)}" for p, n in counted.items() if n > 1]
    faults += [f"counted, and still waiting: {_name(p)}" for p in waiting if p in counted]
    faults += _wrong_reports(reports, merges)
    faults += _wrong_versions(store, folder / "updates", current, merges, offered)
    return Found(
        current.version, current.round, len(promised), sum(counted.values()), len(abandoned),
        len(waiting & promised), tuple(faults),
    )  # fmt: skip


def _read(folder: Path) -> list[dict]:
    return [json.loads(line) for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()]


def _waiting(folder: Path) -> set[tuple[str, str]]:
    """In the journal of the round that is open."""
    journals = (folder / "state" / "manager" / "rounds").glob("*/accepted.jsonl")
    entries = [json.loads(line) for journal in journals for line in journal.read_text().splitlines()]
    return {(e["node"], e["sha256"]) for e in entries}


def _wrong_reports(reports: list[RoundReport], merges: dict[int, dict]) -> list[str]:
    """The history must say who took part; a report made up after a crash knows of numbers only."""
    faults, merged = [], [r for r in reports if r.outcome == "merged"]
    for number, times in Counter(r.round for r in merged).items():
        if times > 1:
            faults.append(f"history: round {number} was merged {times} times")
    for report in merged:
        updates = merges.get(report.round, {"updates": {}})["updates"]
        if report.participants and {p.node for p in report.participants} != set(updates):
            faults.append(f"history: round {report.round} names others than were merged")
        if report.metrics.nodes != len(updates):
            faults.append(f"history: round {report.round}: {report.metrics.nodes} nodes, merged were {len(updates)}")
    missing = sorted(set(merges) - {r.round for r in merged})
    return [*faults, *(f"history: nothing of round {number}" for number in missing)]


def _wrong_versions(
    store: Store, updates: Path, newest: Manifest, merges: dict[int, dict], offered: dict[tuple[str, str], dict]
) -> list[str]:
    faults: list[str] = []
    rounds: list[int] = []
    manifest: Manifest | None = newest
    while manifest is not None and manifest.base is not None:
        base = store.version(manifest.base)
        rounds.append(manifest.round)
        if base is None:
            faults.append(f"version {manifest.number}: its base is gone")
        elif manifest.round not in merges:
            faults.append(f"version {manifest.number}: nobody said that round {manifest.round} is merged")
        else:
            faults += _wrong_version(store, updates, base, manifest, merges[manifest.round]["updates"], offered)
        manifest = base
    if rounds[::-1] != list(range(1, newest.round + 1)):
        faults.append(f"lineage: expected rounds 1 to {newest.round}, one a version. Found: {rounds[::-1]}")
    return faults


def _wrong_version(
    store: Store, folder: Path, base: Manifest, made: Manifest, updates: dict, offered: dict[tuple[str, str], dict]
) -> list[str]:
    """Version = base + Σ n_k Δ_k / Σ n_k."""
    positions = update_positions(base.variables)
    before, after = _weights(store, base), _weights(store, made)
    facts = [offered.get((node, sha)) for node, sha in updates.items()]
    if None in facts or not facts:
        return [f"version {made.number}: made of an update that nobody offered"]
    examples = [fact["examples"] for fact in facts]
    changes = [decode((folder / fact["sha256"]).read_bytes(), base.variables, positions) for fact in facts]
    for place, position in enumerate(positions):
        parts = [n * change[place].astype(np.float64) for n, change in zip(examples, changes, strict=True)]
        expected = before[position].astype(np.float64) + sum(parts) / sum(examples)
        worst = float(np.abs(expected - after[position]).max(initial=0.0))
        if worst > TOLERANCE * max(1.0, float(np.abs(expected).max(initial=0.0))):
            return [f"version {made.number}: position {position} is off by {worst:.3g}"]
    return []


def _weights(store: Store, manifest: Manifest) -> list[np.ndarray]:
    return decode(store.blob(manifest.blobs["weights"].sha256), manifest.variables)


def _name(update: tuple[str, str]) -> str:
    return f"{update[0]}'s {update[1][:12]}…"


def as_json(found: Found) -> str:
    return msgspec.json.encode(found).decode()
