"""What names a person leaves no text that goes to an endpoint: e-mail addresses, telephone numbers, names.

In doubt it masks. It can't know: a name that nobody introduces, that is no user's and no word of the list ("Anna was
rude"); numbers written as words, or with fewer than seven digits; what is in a picture (only its file is made anew,
without its EXIF); who somebody is from what they tell.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

AT = r"\s?(?:@|\(at\)|\[at\]|\{at\})\s?"
DOT = r"(?:\.|\s?(?:\(dot\)|\[dot\]|\{dot\})\s?)"
EMAIL = re.compile(rf"(?<!\w)[\w.+%'-]*\w{AT}\w[\w-]*(?:{DOT}\w[\w-]*)+", re.IGNORECASE)
HANDLE = re.compile(r"(?<![\w@])@\w{2,}")
PHONE = re.compile(r"(?<![\w.,])\+?\(?\d(?:[\s()./\-–\u2011]{0,3}\d){6,14}(?![\w%]|[.,]\d)")
NO_PHONE = re.compile(
    r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{4}|(?:1[89]|20)\d\d\s?[-–/]\s?(?:1[89]|20)\d\d"
)
NAME = r"[^\W\d_a-z][\w'’-]*"
PARTICLE = "(?:van|von|de|der|den|la|le|di|da)"
LEADS = (
    "my name is", "my name['’]s", "the name is", "i am called", "call me", "i['’]m", "i am", "this is", "mrs?", "ms",
    "miss", "mx", "dr", "prof", "professor", "sir", "madam", "regards", "cheers", "sincerely", "yours",
    "mein name ist", "ich heiße", "herr", "frau", "je m['’]appelle", "monsieur", "madame", "me llamo", "señora?",
)  # fmt: skip
WHOLE = rf"(?:{PARTICLE}[ \t]+){{0,2}}{NAME}(?:[ \t]+(?:{PARTICLE}|[A-Z]\.|{NAME})){{0,3}}"
INTRODUCED = re.compile(rf"(?P<lead>\b(?i:{'|'.join(LEADS)})\b[.,]?\s+)(?P<name>{WHOLE})")
CALLED = re.compile(
    r"(?P<lead>\b(?i:my name is|my name['’]s|ich heiße|je m['’]appelle|me llamo)\s+)(?P<name>[^\W\d_]+)"
)
WORD = re.compile(r"\w+")
LETTERS, LONGEST = 3, 6


class Mask:
    """A text without what names a person: [email], [phone], [name] stand in its place.

    names: whole words or phrases that are masked wherever they stand, in any case: those that a recipe lists and the
    users of the data. One of fewer than three letters ("u7", "1042") is no name: it would mask what reviews count. Of a
    name of several words also each that begins with a capital. A name that a text introduces ("I'm Anna", "Mr Smith")
    is masked in all of that text.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._known: set[tuple[str, ...]] = set()
        self._longest: dict[str, int] = {}  # by first word
        for name in names:
            words = WORD.findall(name)
            self._learn(words)
            for word in words if len(words) > 1 else ():
                if word[0].isupper() and not word.isupper():
                    self._learn([word])

    def __call__(self, text: str) -> str:
        text = EMAIL.sub("[email]", text)
        text = PHONE.sub(lambda found: found[0] if NO_PHONE.fullmatch(found[0].strip()) else "[phone]", text)
        text = HANDLE.sub("[name]", text)
        introduced = {
            word
            for pattern in (INTRODUCED, CALLED)
            for found in pattern.finditer(text)
            for word in WORD.findall(found["name"])
            if len(word) >= LETTERS
        }
        for pattern in (INTRODUCED, CALLED):
            text = pattern.sub(r"\g<lead>[name]", text)
        return self._without_known(text, introduced)

    def _learn(self, words: list[str]) -> None:
        if sum(letter.isalpha() for word in words for letter in word) >= LETTERS and len(words) <= LONGEST:
            folded = tuple(word.casefold() for word in words)
            self._known.add(folded)
            self._longest[folded[0]] = max(len(folded), self._longest.get(folded[0], 0))

    def _without_known(self, text: str, introduced: set[str]) -> str:
        """The text without known names, the longest first, and without words that were introduced as one."""
        words = list(WORD.finditer(text))
        folded = [word[0].casefold() for word in words]
        out, done, place = [], 0, 0
        while place < len(words):
            longest = min(self._longest.get(folded[place], 0), len(words) - place)
            length = next((n for n in range(longest, 0, -1) if tuple(folded[place : place + n]) in self._known), 0)
            length = length or (words[place][0] in introduced)
            inside = words[place].start() > 0 and text[words[place].start() - 1] == "["
            if length and not inside:
                out += [text[done : words[place].start()], "[name]"]
                done = words[place + length - 1].end()
            place += max(length, 1)
        return "".join([*out, text[done:]])
