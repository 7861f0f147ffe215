"""The page of personalised prompts over made-up answers: complete, self-contained, safe against what data say."""

from __future__ import annotations

import re
from typing import Any

import pytest
from made_up_personal import explained, summary
from pages import HOSTILE, PICTURE, must_keep_as_text, must_stand_alone

from latefuse.evaluation.cost import Cost
from latefuse.evaluation.personal_verdict import explained as of_explanations
from latefuse.evaluation.personal_verdict import next_items
from latefuse.evaluation.report.personal import Asked, PersonalReport, build

ROW = {
    "user": HOSTILE, "history": [{"id": "i1", "title": "Harbour", "picture": PICTURE}, {"id": HOSTILE}],
    "truth": {"id": "i9", "title": HOSTILE}, "top": [{"id": "i4", "title": "Lamp"}, {"id": "i9", "title": HOSTILE}],
    "place": 1_204, "feature": HOSTILE, "written": HOSTILE, "true": HOSTILE,
}  # fmt: skip


def _report(**more: Any) -> PersonalReport:
    one, other = summary(name=HOSTILE), explained()
    given: dict[str, Any] = {
        "title": HOSTILE, "description": HOSTILE, "skipped": [HOSTILE], "rows": [ROW],
        "asked": [Asked("Next item (A-3)", one, next_items(one, ["shuffled"]), HOSTILE),
                  Asked("Explanation (C-3)", other, of_explanations(other))],
        "manifest": {"source": HOSTILE, "rows": {}, "splits": {}}, "costs": [Cost("both", 1e5, 0.08, 9e3, 61.0, 50.0)],
        "facts": {"backbone": HOSTILE}, "repeat": {"recipe": HOSTILE}, "slice_notes": {"cold": HOSTILE},
    }  # fmt: skip
    return PersonalReport(**(given | more))


@pytest.fixture(scope="module")
def page() -> str:
    return build(_report())


def _section(page: str, name: str) -> str:
    return page.split(f'<section id="{name}">')[1].split("</section>")[0]


def test_the_page_is_well_formed_and_asks_for_nothing(page: str) -> None:
    must_stand_alone(page)


def test_what_data_say_stays_text(page: str) -> None:
    must_keep_as_text(page, 20)


def test_every_kind_of_question_has_chart_and_tables(page: str) -> None:
    first, second = _section(page, "asked-0"), _section(page, "asked-1")
    assert first.count('class="bar ') == len(summary().arms)
    heads = [re.findall(r'<th scope="col">(.*?)</th>', table) for table in first.split("<h3>Over ")[1:]]
    assert heads[0][:6] == ["arm", "HR@10", "NDCG@10", "HR@1", "HR@5", "NDCG@5"]
    assert heads[1][1] == "HR@10, sampled@100"
    assert "the whole catalogue</h3>" in first
    assert "100 stored candidates</h3>" in first
    chances = [re.findall(r"<td>([\d.]*%?)</td>", foot) for foot in re.findall(r"<tfoot>(.*?)</tfoot>", first, re.S)]
    assert chances[0] == ["0.5%", "", "0.05%", "0.2%", ""]
    assert chances[1] == ["10.0%", "", "1.0%", "5.0%", ""]
    assert "picture shuffled" in first
    assert "By every metric" in second
    assert "oracle" in second
    for name in ("ROUGE-L", "BLEU-4", "feature named", "distinct-2", "unique explanations"):
        assert f">{name}<" in second
    assert not re.search(r"\bnan\b|nan%", page.split("</style>")[1])


def test_rows_show_history_truth_answers_and_words(page: str) -> None:
    rows = _section(page, "rows")
    assert f'src="{PICTURE}"' in rows
    assert "found at place 1,204" in rows
    answered = rows.split("<h3>Answered")[1].split("</ol>")[0]
    assert re.findall(r"<li( class=\"true\")?>", answered) == ["", ' class="true"']
    assert rows.index("Harbour") < rows.index("Chosen next") < rows.index("Lamp") < rows.index("Explained")


def test_metrics_are_explained(page: str) -> None:
    repeat = _section(page, "repeat")
    assert "among the first 10" in repeat
    assert "among 100 stored candidates" in repeat
    assert "name the feature word" in repeat


def test_rows_that_lack_something() -> None:
    bare = {"history": [], "truth": {"id": "a"}, "top": []}
    rows = _section(build(_report(rows=[bare])), "rows")
    for said in ("nothing before", "no item", "not among those listed"):
        assert said in rows
    assert "Explained" not in rows
    must_stand_alone(build(_report(rows=(), costs=())))
    with pytest.raises(ValueError, match="example row 1: no truth, top"):
        build(_report(rows=[bare, {"history": []}]))
    with pytest.raises(ValueError, match="the picture of a is no data URI"):
        build(_report(rows=[{**bare, "truth": {"id": "a", "picture": "a.jpg"}}]))
