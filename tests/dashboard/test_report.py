"""The page a demonstration leaves behind."""

import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest

from dl_mqtt_clients.config import Settings
from dl_mqtt_clients.dashboard import plots
from dl_mqtt_clients.dashboard.comparison import Measured
from dl_mqtt_clients.dashboard.report import Results, changed_settings, render_report, who_took_part, write_report
from dl_mqtt_clients.wire.messages import Metrics, Spread, Verdicts
from fleets import report

RNG = np.random.default_rng(0)
LABELS = np.array([0] * 300 + [1] * 100, np.int8)


MARKS = plots.Marks(rejected=[1], rescaled=[0])
SPREAD = Spread(worst=0.75, median=0.5, best=0.25, worst_node="trainer-2")


def measured(name: str, auroc: float | None = 0.9) -> Measured:
    return Measured(
        name=name, auroc=auroc, average_precision=auroc, loss=0.1, scores=RNG.gamma(2.0, size=len(LABELS)) * 0.01
    )


def results(**changes) -> Results:
    known = {
        "title": "Federated learning on <b>data</b>",
        "lead": "Three trainers.",
        "settings": Settings().replace(**{"training.epochs": 7, "broker.username": "me"}),
        "rounds": (
            report(1),
            report(2, outcome="abandoned", nodes=("trainer-1",)),
            report(3, nodes=("trainer-1",), left_out=("trainer-2",)),
        ),
        "threshold": 0.02,
        "models": (measured("base model", 0.512), measured("federated", 0.934), measured("trained centrally", 0.951)),
        "by_version": {1: measured("version 1"), 3: measured("version 3")},
        "labels": LABELS,
        "seconds": 33.0,
    }
    return Results(**{**known, **changes})


class Page(HTMLParser):
    """Tags, and everything that would be loaded."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data", "action") and not value.startswith("#"):
                self.loaded.append(value)
            if name == "id":
                self.ids.append(value)


@pytest.fixture(scope="module")
def page() -> str:
    return render_report(results())


def test_nothing_is_loaded_from_anywhere_and_nothing_runs(page):
    parsed = Page(page)
    assert parsed.loaded == []
    assert not {"script", "iframe", "link", "img", "object"} & set(parsed.tags)
    assert "@import" not in page
    assert "url(http" not in page


def test_no_two_elements_share_an_id(page):
    ids = Page(page).ids
    assert len(ids) == len(set(ids))


def test_numbers_and_rounds_are_in_it(page):
    for words in ("0.512", "0.934", "0.951", "trainer-2", "abandoned", "33 s", "training.epochs"):
        assert words in page, words


def test_what_others_named_is_escaped(page):
    assert "<b>data</b>" not in page
    assert "&lt;b&gt;data" in page


def test_day_and_night_are_both_thought_of(page):
    assert "prefers-color-scheme: dark" in page
    for stand_in in (plots.INK, plots.MUTED, plots.GRID, plots.FIRST, plots.SECOND, plots.THIRD):
        assert stand_in not in page
    assert "var(--first)" in page


def test_a_password_is_never_shown():
    settings = Settings().replace(**{"broker.password": "secret-word", "broker.username": "me"})
    assert "secret-word" not in render_report(results(settings=settings))
    assert ("broker.username", "me") in changed_settings(settings)


def test_only_settings_that_differ_are_listed():
    assert changed_settings(Settings()) == []
    changed = Settings().replace(**{"model.hidden": (8, 4), "rounds.count": 3})
    assert changed_settings(changed) == [("model.hidden", "8, 4"), ("rounds.count", "3")]


def test_a_report_without_labels_threshold_or_live_auroc_is_possible():
    unknown = tuple(measured(name, None) for name in ("base model", "federated", "trained centrally"))
    text = render_report(
        results(
            models=unknown,
            by_version={1: unknown[0]},
            labels=np.full(len(LABELS), -1, np.int8),
            threshold=None,
            rounds=(report(1, auroc=None),),
        )
    )
    assert "No threshold was agreed on" in text


def test_what_the_nodes_agreed_on_and_found_is_in_it():
    found = Metrics(
        holdout_loss=0.25, auroc=0.951, average_precision=0.876, loss_spread=SPREAD, auroc_spread=SPREAD,
        verdicts=Verdicts(true_positives=80, false_negatives=20, false_positives=3, true_negatives=297),
    )  # fmt: skip
    page = render_report(
        results(
            rounds=(
                report(1, outcome="rescaled", promotion="promote: first version of its lineage"),
                report(2, promotion="promote: loss -3.10%", metrics=found),
                report(3, promotion="reject: loss +<40>%"),
                report(4, outcome="returned"),
            )
        )
    )
    for words in (
        "agreed on by 2 nodes, from sums over 1,000 readings", "0.951", "0.876", "0.75 / 0.5 / 0.25", "on trainer-2",
        "80 of 100 anomalous readings above it (80.0%), 3 of 300 normal readings above it (1.0%)", "loss +&lt;40&gt;%",
        "2 of 4", "rejected: never in production", "new scaler", "back to the best",
    ):  # fmt: skip
        assert words in page, words
    assert (
        page.count('<tr class="rejected" title="loss +&lt;40&gt;%"><td>3</td>') == page.count('class="rejected"') == 1
    )


def test_every_version_stands_at_its_own_number_in_the_plots():
    drawn = {}

    def note(**series):
        drawn.update(series)
        return "<svg/>"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "auroc_a_version", note)
        rounds = (report(1, outcome="rescaled"), report(2, outcome="abandoned"), report(3, promotion="reject: worse"))
        render_report(results(rounds=rounds))
    assert drawn["reported"] == [None, 0.9, None, 0.9]
    assert drawn["test"] == [0.512, 0.9, None, 0.9]
    assert drawn["marks"] == plots.Marks(rejected=[3], rescaled=[1])


def test_it_is_written_whole(tmp_path, page):
    write_report(tmp_path / "new" / "report.html", results())
    assert (tmp_path / "new" / "report.html").read_text(encoding="utf-8").endswith("</html>")


def test_who_took_part_is_by_node_and_round():
    nodes, examples = who_took_part([report(1), report(2, nodes=("trainer-2",), left_out=("trainer-9",))])
    assert nodes == ["trainer-1", "trainer-2", "trainer-9"]
    assert examples.tolist() == [[500, 0], [500, 500], [0, 0]]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.auroc_a_version(test=[0.5, 0.9], reported=[None, 0.8], central=0.95, marks=MARKS),
        lambda: plots.auroc_a_version(test=[None], reported=[None], central=None),
        lambda: plots.loss_a_version(test=[1.0, 0.1], training=[None, 0.2], marks=MARKS),
        lambda: plots.loss_a_version(test=[None, None], training=[None, None], marks=MARKS),
        lambda: plots.spread_a_version([None, SPREAD], marks=MARKS),
        lambda: plots.spread_a_version([None, Spread(worst=0.0, median=0.0, best=0.0, worst_node="a")]),
        lambda: plots.spread_a_version([]),
        lambda: plots.score_distributions(np.ones(3), np.zeros(3), np.zeros(3), threshold=None),
        lambda: plots.score_distributions(
            np.array([0.1, np.inf]), np.array([1.0, 2.0]), np.array([0, 1]), threshold=0.5
        ),
        lambda: plots.participation(["a"], [1], np.array([[10.0]])),
        lambda: plots.participation(["a", "b"], list(range(1, 201)), np.zeros((2, 200))),
    ],
)
def test_every_plot_is_well_formed_without_a_size_of_its_own(draw):
    svg = ET.fromstring(draw())
    assert svg.get("viewBox")
    assert (svg.get("width"), svg.get("height")) == ("100%", None)
