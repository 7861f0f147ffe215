"""The page of item embeddings over estimates made by hand: complete, self-contained, safe against what data say."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from pages import HOSTILE, PICTURE, must_keep_as_text, must_stand_alone

from latefuse.evaluation.arms_summary import ArmsSummary, KnockOut, Line, MeasuredArm
from latefuse.evaluation.cost import Cost
from latefuse.evaluation.intervals import Estimate
from latefuse.evaluation.report import charts
from latefuse.evaluation.report.neighbours import NeighbourCard, Shown
from latefuse.evaluation.report.retrieval import RetrievalReport, build

NAN = float("nan")
METRICS = ("recall_at_10", "recall_at_100", "ndcg_at_10", "ndcg_at_100", "mrr")
MEANS = {"popularity": 0.051, "co-occurrence": 0.281, "base": 0.121, "notellm2": 0.154}
GROUPS = {"popularity": "floor", "co-occurrence": "floor", "base": "control", "notellm2": "main"}


def _near(value: float, rows: int = 400) -> Estimate:
    return Estimate(value, value - 0.02, value + 0.03, rows)


def _lines() -> dict[str, Line]:
    main = MEANS["notellm2"]
    return {arm: Line(_near(mean), None if arm == "notellm2" else _near(main - mean)) for arm, mean in MEANS.items()}


def _summary() -> ArmsSummary:
    few = Estimate(0.2, NAN, NAN, 12)
    shown = {
        ("base", "shuffled:image"): (_near(0.12), Estimate(0.001, -0.01, 0.01, 400)),
        ("base", "only:image"): (Estimate(0.004, 0.0, 0.01, 400), _near(0.117)),
        ("notellm2", "noise:text"): (_near(0.022), _near(0.132)),
        ("notellm2", "shuffled:image"): (_near(0.093), _near(0.061)),
        ("notellm2", "only:image"): (_near(0.084), _near(0.07)),
    }
    return ArmsSummary(
        task="items",
        main="notellm2",
        arms=[MeasuredArm(name, name, f"what {name} is", group) for name, group in GROUPS.items()],  # type: ignore[arg-type]
        metrics=METRICS,
        rows=400,
        about="400 queries in a pool of 2,000",
        pool=2_000,
        lines={metric: _lines() for metric in METRICS},
        knock_outs=[KnockOut(arm, what, _near(MEANS[arm]), *pair) for (arm, what), pair in shown.items()],
        slices={"cold": _lines(), "absent": {"base": Line(few, few), "notellm2": Line(few)}},
        sizes={"cold": 400, "absent": 12},
        oracle={"recall_at_10": 0.5},
    )


def _card() -> NeighbourCard:
    shown = [Shown("m1", "Harbour", "", PICTURE, 0.91), Shown("m2", HOSTILE, "", None, -0.25, true=True)]
    return NeighbourCard(
        Shown("m0", HOSTILE, HOSTILE, PICTURE),
        Shown("m2", "", ""),
        {"text only": shown[:1], "picture only": [], "fused": shown},
        {"text only": 1_204, "fused": 2},
    )


def _report() -> RetrievalReport:
    return RetrievalReport(
        title=HOSTILE,
        summary=_summary(),
        cards=[_card()],
        flows='<svg class="saliency"><text>S_v</text></svg>',
        manifest={"source": HOSTILE, "rows": {"items": 2_000}, "splits": {"pairs": {"item": {"train": 5, "test": 2}}}},
        costs=[Cost("notellm2", 123_456, 0.08, 9_000, 61.0, 50.0, 1.25), Cost("zero-shot", 0.0, 0.0)],
        facts={"backbone": HOSTILE},
        repeat={"recipe": HOSTILE},
        description=HOSTILE,
        slice_notes={"cold": HOSTILE, "never cut": "not to be shown"},
    )


@pytest.fixture(scope="module")
def page() -> str:
    return build(_report())


def _section(page: str, name: str) -> str:
    return page.split(f'<section id="{name}">')[1].split("</section>")[0]


def _row(table: str, arm: str) -> list[str]:
    """The cells of an arm's line of a table."""
    (row,) = re.findall(rf'<tr><th scope="row"><span class="dot [\w-]+"></span>{arm}</th>(.*?)</tr>', table, re.S)
    return re.findall(r"<td>(.*?)</td>", row, re.S)


def test_the_page_is_well_formed_and_asks_for_nothing(page: str) -> None:
    must_stand_alone(page)


def test_what_data_say_stays_text(page: str) -> None:
    must_keep_as_text(page, 10)


def test_the_chart_tells_value_interval_lead_and_share_of_the_oracle(page: str) -> None:
    chart = _section(page, "arms").split("</article>")[0]
    rows = dict(re.findall(r'role="rowheader"><span class="dot \w+"></span>([\w-]+)</span>(.*?)</div>', chart, re.S))
    assert list(rows) == list(MEANS)
    assert "<b>12.1%</b><small>10.1 – 15.1</small>" in rows["base"]
    assert re.search(r'class="diff better"[^>]*>\+3.3 \[1.3, 6.3\]<', rows["base"])
    assert re.search(r'class="diff worse"[^>]*>-12.7 \[-14.7, -9.7\]<', rows["co-occurrence"])
    assert 'data-head="of oracle">24%<' in rows["base"]
    assert re.search(r'class="diff "[^>]*></span>', rows["notellm2"])
    assert "400 queries in a pool of 2,000" in chart
    assert "chance 0.5%" in chart
    assert f'style="--chance:{charts.Scale(0, 0.5)(0.005)}%"' in chart


def test_every_metric_has_a_column_with_chance_and_oracle(page: str) -> None:
    table = _section(page, "arms").split('aria-label="Arms by metric"')[1]
    heads = re.findall(r'<th scope="col">(.*?)</th>', table)
    assert heads == ["arm", "R@10", "R@100", "NDCG@10", "MRR"]
    assert [cell.split("<small>")[0] for cell in _row(table, "co-occurrence")] == [
        '<b class="best">28.1%</b> <i title="above notellm2, interval excludes zero">▲</i>'
    ] * 4
    assert ["▼" in cell for cell in _row(table, "base")] == [True] * 4
    assert _row(table, "chance") == ["0.5%", "5.0%", "", ""]
    assert _row(table, "oracle") == ["50.0%", "", "", ""]
    assert "what base is" in table


def test_the_meter_shows_who_ignores_the_picture(page: str) -> None:
    meter = _section(page, "contributions").split("</table>")[0]
    assert re.findall(r'<th scope="col">([\w ]+)<small>', meter) == ["picture only", "picture shuffled"]
    assert meter.index("notellm2") < meter.index("base")
    assert _row(meter, "base")[1:] == [
        '<b class="worse">0.4%</b><small>0.0 – 1.0</small>',
        '<b class="worse">+0.1</b><small>-1.0 – 1.0</small>',
    ]
    assert _row(meter, "notellm2") == [
        "<b>15.4%</b>",
        "<b>8.4%</b><small>6.4 – 11.4</small>",
        '<b class="better">+6.1</b><small>4.1 – 9.1</small>',
    ]


def test_every_condition_is_drawn_main_arm_first(page: str) -> None:
    blocks = _section(page, "contributions").split("<details")[1:]
    assert [re.search(r"</span>([\w-]+)</b>", block)[1] for block in blocks] == ["notellm2", "base"]  # type: ignore[index]
    assert [" open" in block.split(">")[0] for block in blocks] == [True, False]
    names = re.findall(r'<span class="name">(.*?)</span>', blocks[0])
    assert names == ["picture only", "picture shuffled", "text as noise"]
    assert 'aria-label="notellm2, picture shuffled: from 15.4% to 9.3%"' in blocks[0]
    assert "costs +6.1 [4.1, 9.1]" in blocks[0]


def test_slices_stand_side_by_side_with_their_sizes(page: str) -> None:
    slices = _section(page, "slices")
    assert re.findall(r'<th scope="col">(\w+)<small>(.*?)</small>', slices) == [
        ("cold", "n = 400"),
        ("absent", "n = 12"),
    ]
    assert _row(slices, "base") == [
        '<b>12.1%</b><small>10.1 – 15.1</small><span class="diff better">+3.3 [1.3, 6.3]</span>',
        '<b>20.0%</b><small>n = 12</small><span class="diff ">+20.0</span>',
    ]
    assert _row(slices, "popularity")[1] == ""
    assert "not to be shown" not in slices


def test_neighbours_show_the_true_partner_and_its_rank(page: str) -> None:
    card = _section(page, "neighbours")
    rows = re.findall(r"<h3>([\w ]+) <small>(.*?)</small></h3>\s*<ol>(.*?)</ol>", card, re.S)
    assert [row[:2] for row in rows] == [
        ("text only", "partner at rank 1,204"),
        ("picture only", "partner not ranked"),
        ("fused", "partner at rank 2"),
    ]
    assert "nothing found" in rows[1][2]
    assert re.findall(r"<li( class=\"true\")?>", rows[2][2]) == ["", ' class="true"']
    assert re.findall(r"<small>(.*?)</small>", rows[2][2]) == ["0.91", "-0.25"]
    assert f'src="{PICTURE}"' in rows[0][2]
    assert "no picture" in rows[2][2]
    assert '<p class="title" dir="auto">m2</p>' in card  # without a title its id


def test_saliency_is_drawn_or_the_reason_told(page: str) -> None:
    assert '<svg class="saliency"><text>S_v</text></svg>' in _section(page, "saliency")
    told = build(replace(_report(), flows="", no_flows="a light backbone has no <layers>"))
    assert "Not drawn: a light backbone has no &lt;layers&gt;" in _section(told, "saliency")


def test_costs_are_those_of_arms(page: str) -> None:
    cost = _section(page, "cost")
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', cost)
    assert [row[0] for row in rows] == ["notellm2"]
    assert re.findall(r"<td>(.*?)</td>", rows[0][1]) == ["123 k", "8.00%", "9 k", "61.0 s", "1.25 GiB", "", ""]
    assert "pairs/s" in cost


def test_metrics_are_explained(page: str) -> None:
    repeat = _section(page, "repeat")
    assert "among the 100 nearest items" in repeat
    assert repeat.count("<dt>NDCG@") == 2


def test_findings_know_the_controls() -> None:
    report = replace(_report(), shuffled_arms=["base"], text_arm="popularity")
    said = _section(build(report), "findings")
    assert "Content, not memorised identity, on all queries" in said
    assert "Text with picture beats text alone" in said
    assert "No arm was trained on shuffled" in _section(build(_report()), "findings")


@pytest.mark.parametrize("oracle", [{}, {"recall_at_10": 0.5}])
def test_one_arm_and_nothing_else_still_makes_a_page(oracle: dict[str, float]) -> None:
    line = {"notellm2": Line(Estimate(0.1, NAN, NAN, 8))}
    arms = [MeasuredArm("notellm2", "notellm2", "", "main")]
    summary = ArmsSummary("items", "notellm2", arms, ["mrr"], 8, 20, {"mrr": line}, oracle=oracle)
    page = build(RetrievalReport(title="t", summary=summary))
    assert "nothing to compare" in page
    assert "too few for intervals" in page
    assert "<b>10.0%</b><small>n = 8</small>" in page
    for name in ("contributions", "slices", "saliency", "neighbours"):
        assert f'id="{name}"' not in page
        assert f'href="#{name}"' not in page
    assert "whisker" not in page.split("</style>")[1]
    assert "--chance" not in page.split("</style>")[1]
    must_stand_alone(page)


def test_what_was_not_measured_leaves_no_trace_of_nan() -> None:
    void = Estimate(NAN, NAN, NAN, 0)
    summary = _summary()
    lines = {metric: {**_lines(), "base": Line(void, void)} for metric in METRICS}
    knocked = [KnockOut("notellm2", "only:image", _near(0.2), void, void)]
    page = build(RetrievalReport(title="t", summary=replace(summary, lines=lines, knock_outs=knocked)))
    assert not re.search(r"\bnan\b|nan%", page.split("</style>")[1])
    assert "picture only: from 20.0% to –, not measured" in page
