"""Schedules as github.com/robfig/cron v1 reads them, against a scan of every second by rules written out by hand."""

from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile

import pytest

from latefuse.cluster.kfp_cron import CronError, cron

MONDAY = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def first(text, count=3, after=MONDAY):
    return [f"{one:%a %Y-%m-%d %H:%M:%S}" for one in islice(cron(text).after(after), count)]


def test_five_fields_get_the_second_in_front():
    """Kubeflow would read "0 3 * * *" as second 0 of minute 3 of every hour."""
    assert cron("0 3 * * *").text == "0 0 3 * * *"
    assert cron("  15 0 3 * * ?  ").text == "15 0 3 * * ?"
    assert first("0 3 * * *") == ["Tue 2026-11-24 03:00:00", "Wed 2026-11-25 03:00:00", "Thu 2026-11-26 03:00:00"]


def test_names_spans_lists_and_steps():
    assert first("30 8 * * MON-fri") == [
        "Tue 2026-11-24 08:30:00",
        "Wed 2026-11-25 08:30:00",
        "Thu 2026-11-26 08:30:00",
    ]
    assert first("0 0 1,15 jan *") == ["Fri 2027-01-01 00:00:00", "Fri 2027-01-15 00:00:00", "Sat 2028-01-01 00:00:00"]
    assert first("*/20 12 * * 0,1", 4)[:3] == [
        "Mon 2026-11-23 12:20:00", "Mon 2026-11-23 12:40:00", "Sun 2026-11-29 12:00:00",
    ]  # fmt: skip
    assert first("40/10 * * * * *", 2) == ["Mon 2026-11-23 12:00:40", "Mon 2026-11-23 12:00:50"]
    assert first("0 0 29 2 *", 2) == ["Tue 2028-02-29 00:00:00", "Sun 2032-02-29 00:00:00"]


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("*/7 3-5 * * * *", lambda t: t.second % 7 == 0 and t.minute in (3, 4, 5)),
        ("0 */25 1-3/2 * * *", lambda t: t.second == 0 and t.minute in (0, 25, 50) and t.hour in (1, 3)),
        ("0 0 0 24 * 3", lambda t: t.hour == t.minute == t.second == 0 and (t.day == 24 or t.isoweekday() == 3)),
        ("0 0 0 */2 * 3", lambda t: t.hour == t.minute == t.second == 0 and t.day % 2 == 1 and t.isoweekday() == 3),
    ],
)
def test_against_a_scan_of_every_second(text, fits):
    end = MONDAY + timedelta(days=3)
    scanned = (MONDAY + timedelta(seconds=k) for k in range(1, 3 * 86_400))
    found = list(takewhile(lambda one: one < end, cron(text).after(MONDAY)))
    assert found == [one for one in scanned if fits(one)]
    assert found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "0 fields"),
        ("0 3 * *", "4 fields"),
        ("0 0 3 * * * 2027", "7 fields"),
        ("@daily", "write the fields out"),
        ("61 3 * * *", "61 is no minute, those are 0 to 59"),
        ("0 24 * * *", "24 is no hour"),
        ("0 3 0 * *", "0 is no day of month, those are 1 to 31"),
        ("0 3 * 13 *", "13 is no month"),
        ("0 3 * * 7", "Sunday is 0"),
        ("0 3 * * mon-sun", "ends before it begins"),
        ("0 3 L * *", "'L' is no day of month"),
        ("0 3 * * 1#2", "L, W and # are not known"),
        ("*/0 3 * * *", "a step is at least 1"),
        ("0 3 1,,2 * *", "'' is no day of month"),
        ("0 3 * * -1", "'' is no day of week"),
        ("0 0 31 2 *", "never comes"),
        ("٣ 3 * * *", "is no minute"),
    ],
)
def test_what_is_wrong_is_named(text, words):
    with pytest.raises(CronError) as caught:
        cron(text)
    assert words in str(caught.value)
