"""What may leave the machine."""

import json
import math
from pathlib import Path

import pytest

from latefuse.tracking import words

SECRETS = {
    "MLFLOW_TRACKING_PASSWORD": "correct-horse-4711",
    "MLFLOW_TRACKING_TOKEN": "dapi51f0c2b9",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "AWS_SESSION_TOKEN": "FwoGZXIvYXdzEBYaDH+x/9==",
    "HF_TOKEN": "not-of-the-usual-shape-81",
    "KFP_COOKIE": "authservice_session=MTcw",
    "MYSQL_PWD": "tulip-3345",
    "PGPASSWORD": "maple-9901",
    "GPG_PASSPHRASE": "seven small words",
    "AZURE_STORAGE_CONNECTION_STRING": "AccountName=a;AccountSecret=b8",
    "SENTRY_DSN": "https://51aa@errors.example/4",
    "DATABASE_URL": "postgresql:///latefuse?sslkey=one",
    "REDIS_URL": "redis-one.internal:6379",
}


@pytest.fixture(autouse=True)
def _secrets(monkeypatch, tmp_path):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PLAIN", "nothing secret")
    monkeypatch.setenv("CANARY", "a bird of the finches")
    monkeypatch.setenv("PWD", str(tmp_path / "work"))
    monkeypatch.setenv("HOME", str(tmp_path / "someone"))


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("token not-of-the-usual-shape-81 here", "token *** here"),
        ("mysql://user:tulip-3345@host/db", "mysql://***@host/db"),
        ("http://me:hunter22@host:5000", "http://***@host:5000"),
        ("redis://:hunter22@host:6379/0", "redis://***@host:6379/0"),
        ("mysql://me:hunt@er22@host/db and a@b.example", "mysql://***@host/db and a@b.example"),
        ("http://host:5000/a@b, http://host:5000 or me@host", "http://host:5000/a@b, http://host:5000 or me@host"),
        ("a bird of the finches", "a bird of the finches"),
        ("hf_" + "a" * 34, "***"),
        ("ghp_" + "b" * 36 + " end", "*** end"),
        ("nothing secret", "nothing secret"),
        ("a sky-blue risk-free desk", "a sky-blue risk-free desk"),
    ],
)
def test_secrets_are_taken_out(text, clean):
    assert words.scrub(text) == clean


@pytest.mark.parametrize("name", SECRETS)
def test_the_values_of_secret_variables_are_taken_out(name):
    assert words.scrub(f"with {SECRETS[name]}, so") == "with ***, so"


def test_the_folder_one_works_in_is_no_secret(tmp_path):
    assert words.scrub(f"made in {tmp_path / 'work'}") == f"made in {tmp_path / 'work'}"


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
    page.write_text(f"<p>{Path.home()}/x tulip-3345</p>")
    plain.write_text("<p>fine</p>")
    picture.write_bytes(b"\x89PNG not-of-the-usual-shape-81")
    assert words.scrubbed_copy(page, scratch).read_text() == "<p>~/x ***</p>"
    assert "tulip-3345" in page.read_text()
    assert words.scrubbed_copy(plain, scratch) == plain
    assert words.scrubbed_copy(picture, scratch) == picture
