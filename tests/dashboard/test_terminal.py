"""The picture on the terminal."""

import io

import pytest
from rich.console import Console

from dl_mqtt_clients.dashboard.fleet import Fleet
from dl_mqtt_clients.dashboard.situation import Situation
from dl_mqtt_clients.dashboard.terminal import screen
from dl_mqtt_clients.wire.messages import History, ManagerStatus, Metrics, Spread
from fleets import TOPICS, anomaly, busy, report, told, trainer

WORST = Spread(worst=0.75, median=0.8, best=0.9, worst_node="predictor-2")

SITUATION = Situation(
    title="fedlearn demo", phase="learning", rounds=10, elapsed_s=21.0, baseline_auroc=0.5, baseline_loss=0.9, now=12.0
)


def drawn(fleet: Fleet, width: int, height: int, situation: Situation = SITUATION) -> list[str]:
    console = Console(width=width, height=height, file=io.StringIO(), force_terminal=True, color_system=None)
    console.print(screen(fleet, situation, width=width, height=height), height=height)
    return console.file.getvalue().rstrip("\n").split("\n")


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (60, 20), (250, 70), (110, 24), (80, 60)])
@pytest.mark.parametrize(
    "fleet", [busy(), busy(rounds=0), busy(trainers=20), Fleet()], ids=["busy", "new", "many", "empty"]
)
def test_the_picture_fits_exactly(fleet, width, height):
    lines = drawn(fleet, width, height)
    assert len(lines) == height
    assert all(len(line) <= width for line in lines)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40)])
def test_everything_that_matters_is_in_it(width, height):
    text = "\n".join(drawn(busy(), width, height))
    for words in (
        "Round 7 of 10", "6 merged", "manager", "collecting", "trainer-1", "trainer-3", "predictor-2", "250",
        "AUROC 0.917", "Loss 0.0833", "reading-29", "messages/s", "1,250 readings/s", "1,234 found", "Ctrl-C",
    ):  # fmt: skip
        assert words in text, words


def test_a_wide_terminal_shows_the_rounds_newest_first():
    lines = [line for line in drawn(busy(), 120, 40) if "1,000" in line and "0.5" not in line[:3]]
    assert [line.split("│")[-2].split()[0] for line in lines] == ["6", "5", "4", "3", "2", "1"]


def test_a_lost_node_is_seen():
    text = "\n".join(drawn(told((TOPICS.status("jetson-7", "trainer"), trainer(state="lost"))), 80, 24))
    assert any("jetson-7" in line and "lost" in line for line in text.splitlines())


def test_hostile_names_do_not_steer_the_terminal():
    fleet = told((TOPICS.anomaly("a"), anomaly(name="\x1b[2J[red]\x07\r\n")))
    text = "\n".join(drawn(fleet, 80, 24))
    assert "?[2J[red]???" in text
    assert not {"\x1b", "\x07", "\r"} & set(text)


def test_without_an_end_the_number_of_rounds_is_open():
    assert "of ∞" in "\n".join(drawn(busy(), 80, 24, Situation(title="x", rounds=0, now=12.0)))


def test_what_became_of_each_version_is_seen_with_what_is_in_production():
    rounds = (
        report(1, outcome="rescaled", promotion="promote: first version of its lineage"),
        report(2, promotion="promote: loss -3.10%", metrics=Metrics(auroc=0.9, auroc_spread=WORST)),
        report(3, promotion="reject: loss +40.00%"),
        report(4, outcome="returned", promotion="wait: nobody scored it"),
    )
    fleet = told(
        (TOPICS.manager_status, ManagerStatus(state="collecting", version=4, production=2)),
        (TOPICS.history, History(generation=1, rounds=rounds)),
    )
    lines = drawn(fleet, 160, 40)
    for words, mark in (("scaler", "✓"), (" 2 ", "✓"), (" 3 ", "✗"), ("to best", "…")):
        assert any(words in line and mark in line for line in lines), words
    text = "\n".join(lines)
    assert "v2 in production, threshold 0.02" in text
    assert "worst 0.750 on predictor-2" in text
    assert "2 merged" in text


def test_while_a_scaler_is_agreed_on_it_is_said_who_is_waited_for():
    detail = "agreeing on a scaler: 2 of at least 3 nodes"
    fleet = told((TOPICS.manager_status, ManagerStatus(state="scaling", detail=f"{detail}\x07")))
    text = "\n".join(drawn(fleet, 160, 30))
    assert f"{detail}?" in text


def test_no_number_of_a_round_is_cut_off():
    found = Metrics(loss=0.0466, auroc=0.969, examples=2880)
    rounds = tuple(
        report(number, outcome=outcome, promotion="promote: first", metrics=found)
        for number, outcome in enumerate(("rescaled", "abandoned", "merged", "returned"), start=1)
    )
    text = "\n".join(drawn(told((TOPICS.history, History(generation=1, rounds=rounds))), 120, 40))
    for row in ("scaler – – 0.0466 0.969 ✓", "2 abandoned 2 2,880 0.0466 0.969 ✓", "to best – – 0.0466 0.969 ✓"):
        assert row in " ".join(text.split()), row
