"""When a schedule starts, checked before anything is sent.

Kubeflow reads crons as github.com/robfig/cron v1 does: six fields, seconds first. Of five it would take the first for
the seconds, so that "0 3 * * *" means every hour at three minutes past: here five fields get a 0 in front.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice

from latefuse.errors import UserError

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
EXAMPLE = '"0 3 * * *" is every night at three'
YEARS = 9  # of which one has a 29 February, around a century's turn too


class CronError(UserError, ValueError):
    """A schedule that can't be read or never starts anything; the message says which field is wrong."""


@dataclass(frozen=True)
class _Field:
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()


FIELDS = (
    _Field("second", 0, 59),
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31),
    _Field("month", 1, 12, MONTHS),
    _Field("day of week", 0, 6, DAYS),
)


@dataclass(frozen=True)
class Cron:
    """A schedule. text: the six fields as Kubeflow wants them. sets: the values of each field."""

    text: str
    sets: tuple[frozenset[int], ...]
    any_day: bool

    def after(self, moment: datetime) -> Iterator[datetime]:
        """The times at which it starts after `moment`, in UTC, for the next nine years."""
        moment = moment.astimezone(UTC).replace(microsecond=0)
        second, minute, hour, _, month, _ = self.sets
        for number in range(366 * YEARS):
            day = (moment + timedelta(days=number)).replace(hour=0, minute=0, second=0)
            if day.month not in month or not self._on(day):
                continue
            for h in sorted(hour):
                for m in sorted(minute):
                    for s in sorted(second):
                        found = day.replace(hour=h, minute=m, second=s)
                        if found > moment:
                            yield found

    def _on(self, day: datetime) -> bool:
        """Both days must fit where one of them is `*`; where both are said, one is enough."""
        fits = day.day in self.sets[3], (day.weekday() + 1) % 7 in self.sets[5]
        return all(fits) if self.any_day else any(fits)


def cron(text: str) -> Cron:
    """A schedule of five or six fields. Raises CronError, also for one that never comes."""
    parts = text.split()
    if text.strip().startswith("@"):
        raise CronError(f"CRON={text!r}: write the fields out, {EXAMPLE}")
    if len(parts) not in (5, 6):
        raise CronError(
            f"CRON={text!r} has {len(parts)} fields, not five (minute hour day month weekday) or six, with seconds in "
            f"front; {EXAMPLE}"
        )
    parts = ["0", *parts] if len(parts) == 5 else parts
    sets = tuple(_values(part, field, text) for part, field in zip(parts, FIELDS, strict=True))
    made = Cron(" ".join(parts), sets, any(_starred(parts[k]) for k in (3, 5)))
    if not list(islice(made.after(datetime.now(UTC)), 1)):
        raise CronError(f"CRON={text!r} never comes: no month of those has such a day")
    return made


def _starred(part: str) -> bool:
    return any(one[:1] in ("*", "?") for one in part.split(","))


def _values(part: str, field: _Field, text: str) -> frozenset[int]:
    found: set[int] = set()
    for one in part.split(","):
        span, slash, step = one.partition("/")
        low, dash, high = span.partition("-")
        if span in ("*", "?"):
            first, last = field.low, field.high
        else:
            first = _number(low, field, text)
            last = _number(high, field, text) if dash else field.high if slash else first
        every = _whole(step, field, text) if slash else 1
        if every < 1:
            raise CronError(f"CRON={text!r}: {one!r} of {field.name}: a step is at least 1")
        if first > last:
            raise CronError(f"CRON={text!r}: {one!r} of {field.name} ends before it begins")
        found.update(range(first, last + 1, every))
    return frozenset(found)


def _number(word: str, field: _Field, text: str) -> int:
    if word.lower() in field.names:
        return field.names.index(word.lower()) + field.low
    value = _whole(word, field, text)
    if not field.low <= value <= field.high:
        hint = "; Sunday is 0" if field.names == DAYS else ""
        raise CronError(f"CRON={text!r}: {word} is no {field.name}, those are {field.low} to {field.high}{hint}")
    return value


def _whole(word: str, field: _Field, text: str) -> int:
    if not (word.isascii() and word.isdecimal()):
        raise CronError(
            f"CRON={text!r}: {word!r} is no {field.name}; numbers, *, lists (1,15), spans (1-5) and steps (*/10) are, "
            "L, W and # are not known to Kubeflow"
        )
    return int(word)
