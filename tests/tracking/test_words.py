"""What may leave the machine."""

import json
import math
from pathlib import Path

import pytest

from latefuse.tracking import words


@pytest.fixture(autouse=True)
def _secrets(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "canary-one")
    monkeypatch.setenv("DB_PASSWORD", "canary-two")
    monkeypatch.setenv("PLAIN", "nothing secret")
    monkeypatch.setenv("HOME", str(tmp_path / "someone"))


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("token canary-one here", "token *** here"),
        ("mysql://user:canary-two@host/db", "mysql://***@host/db"),
        ("http://me:hunter22@host:5000", "http://***@host:5000"),
        ("hf_" + "a" * 34, "***"),
        ("ghp_" + "b" * 36 + " end", "*** end"),
        ("nothing secret", "nothing secret"),
        ("a sky-blue risk-free desk", "a sky-blue risk-free desk"),
    ],
)
def test_secrets_are_taken_out(text, clean):
    assert words.scrub(text) == clean


def test_the_home_folder_is_a_tilde_and_its_namesakes_are_not():
    home = str(Path.home())
    assert words.scrub(f"{home}/data and {home}") == "~/data and ~"
    assert words.scrub(f"{home}else/data") == f"{home}else/data"
    assert words.scrub(json.dumps({"path": f"{home}/x"})) == '{"path": "~/x"}'


def test_nested_values_become_dotted_text():
    given = {"a": {"b c!": 1, "d": None}, "list": [1, "x"], "on": True}
    assert dict(words.flatten(given)) == {"a.b c_": "1", "list": '[1, "x"]', "on": "true"}


def test_long_values_keep_their_digest():
    one, two = words.shorten("x" * 7000 + "1"), words.shorten("x" * 7000 + "2")
    assert len(one) <= words.MAX_VALUE
    assert one != two
    assert words.shorten("short") == "short"


def test_numbers_that_json_has_no_word_for():
    found = words.numbers({"a": 1, "b": float("nan"), "c": float("inf"), "d": None})
    assert found == {"a": 1.0, "b": "nan", "c": "inf"}
    assert math.isnan(float(found["b"]))
    json.loads(json.dumps(found))


def test_files_of_a_folder_keep_their_places(tmp_path):
    (tmp_path / "adapter" / "deep").mkdir(parents=True)
    (tmp_path / "adapter" / "a.json").write_text("{}")
    (tmp_path / "adapter" / "deep" / "b.bin").write_bytes(b"1")
    found = {(file.name, folder) for file, folder in words.files(tmp_path / "adapter")}
    assert found == {("a.json", "adapter"), ("b.bin", "adapter/deep")}
    assert list(words.files(tmp_path / "adapter" / "a.json")) == [(tmp_path / "adapter" / "a.json", "")]


def test_text_artifacts_are_cleaned_in_a_copy(tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    page, plain, picture = tmp_path / "page.html", tmp_path / "plain.html", tmp_path / "p.png"
    page.write_text(f"<p>{Path.home()}/x canary-two</p>")
    plain.write_text("<p>fine</p>")
    picture.write_bytes(b"\x89PNG canary-one")
    assert words.scrubbed_copy(page, scratch).read_text() == "<p>~/x ***</p>"
    assert "canary-two" in page.read_text()
    assert words.scrubbed_copy(plain, scratch) == plain
    assert words.scrubbed_copy(picture, scratch) == picture
