"""The trail: what a report of a round says, on disk and to `fedlearn versions`."""

import datetime as dt

import msgspec
import pytest

from dl_mqtt_clients.cli.main import main
from dl_mqtt_clients.wire.messages import RoundReport
from service_helpers import start_manager, trainers

ALL = {"rounds__target_updates": 3, "rounds__min_updates": 3}
FEDERATED = {**ALL, "scaling__federated": True}


def test_every_version_is_traced_to_its_base_lineage_codec_strategy_and_time(memory_url, new_settings):
    began = dt.datetime.now(dt.UTC).replace(microsecond=0)
    settings = new_settings(memory_url, **FEDERATED, transfer__codec="int8", rounds__strategy="FedAvg @ MedianClip")
    with trainers(settings), start_manager(settings, rounds=2, scaler=None) as manager:
        first = manager.versions.current
        assert manager.wait(60)
    rescaled, *merged = manager._store.history(10)
    assert rescaled.outcome == "rescaled"
    assert [r.base for r in (rescaled, *merged)] == [first.version, rescaled.version, merged[0].version]
    assert {r.lineage for r in (rescaled, *merged)} == {manager.versions.current.lineage}
    assert manager.versions.current.lineage != first.lineage
    assert [(r.codec, r.strategy) for r in merged] == [("int8", "FedAvg @ MedianClip")] * 2
    times = [dt.datetime.fromisoformat(r.finished) for r in (rescaled, *merged)]
    assert [began, *times] == sorted([began, *times])


def test_the_file_only_grows(memory_url, new_settings):
    settings = new_settings(memory_url, **ALL)
    path = None
    before = b""
    for rounds in (1, 2):
        with trainers(settings), start_manager(settings, rounds=rounds) as manager:
            assert manager.wait(60)
        path = manager._store.folder / "history.jsonl"
        assert path.read_bytes().startswith(before)
        before = path.read_bytes()
    assert {msgspec.json.decode(line, type=RoundReport).round for line in before.splitlines()} == {1, 2}


@pytest.fixture
def fedlearn(memory_url, unique_name, capsys):
    """The command, on a running federation: its exit code and output."""

    def call(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main([*words, "--broker", memory_url, "--federation", unique_name])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out + said.err

    return call


def test_an_operator_looks_compares_and_goes_back_by_number(memory_url, new_settings, watch, fedlearn):
    settings, seen = new_settings(memory_url, **ALL, rounds__pause_s=3600.0), watch(memory_url)
    with trainers(settings), start_manager(settings, rounds=0):
        seen.manifest("production", lambda m: m.number == 1)
        code, table = fedlearn("versions")
        assert code == 0, table
        assert "IN PRODUCTION" in table
        code, said = fedlearn("diff", "1")
        assert code == 0, said
        assert "kernel" in said
        stays = "and stays there until an operator promotes one"
        assert fedlearn("rollback", "0") == (0, f"rollback: done (version 0 is in production, {stays})\n")
        assert "on hold" in fedlearn("status")[1]
        seen.manifest("production", lambda m: m.number == 0 and m.serial > 2)
        assert fedlearn("promote") == (0, "promote: done (version 1 is in production)\n")
        code, said = fedlearn("rollback", "7")
        assert code == 2
        assert "(0–1)" in said
