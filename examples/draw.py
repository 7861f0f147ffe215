"""Draws the pictures and writes the tables of the two examples; the same in every run.

python examples/draw.py
"""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

HERE = Path(__file__).parent
COLOURS = {
    "red": (214, 40, 40),
    "orange": (244, 132, 28),
    "green": (52, 168, 83),
    "blue": (54, 122, 232),
    "purple": (142, 68, 190),
    "brown": (128, 78, 44),
}
SHAPES = ("disc", "square", "ring", "bar", "triangle")
KINDS = {"disc": "plate", "square": "tray", "ring": "bowl", "bar": "board", "triangle": "stand"}
SIZES = {"small": 12, "large": 20}
SIDE = 48


def draw(colour: str, shape: str, size: str, rng: random.Random) -> Image.Image:
    """A thing of one colour on a light ground, a little off the middle."""
    ground = tuple(rng.randrange(225, 250) for _ in range(3))
    picture = Image.new("RGB", (SIDE, SIDE), ground)
    pen, half = ImageDraw.Draw(picture), SIZES[size]
    x, y = (SIDE // 2 + rng.randrange(-3, 4) for _ in range(2))
    box, fill = (x - half, y - half, x + half, y + half), COLOURS[colour]
    if shape == "disc":
        pen.ellipse(box, fill=fill)
    elif shape == "square":
        pen.rectangle(box, fill=fill)
    elif shape == "ring":
        pen.ellipse(box, outline=fill, width=max(3, half // 3))
    elif shape == "bar":
        pen.rectangle((x - half, y - half // 3, x + half, y + half // 3), fill=fill)
    else:
        pen.polygon([(x, y - half), (x - half, y + half), (x + half, y + half)], fill=fill)
    return picture


def shop(folder: Path) -> None:
    """A little shop: products.csv with photos, questions.jsonl about them, orders.parquet."""
    rng = random.Random(1)
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    things = [(colour, shape, size) for colour in COLOURS for shape in SHAPES for size in SIZES]
    rng.shuffle(things)
    questions = []
    with (folder / "products.csv").open("w", encoding="utf-8", newline="") as handle:
        table = csv.writer(handle, lineterminator="\n")
        table.writerow(["sku", "name", "about", "colour", "size", "photo", "price"])
        for number, (colour, shape, size) in enumerate(things):
            sku, name = f"sku{number:03d}", f"{colour} {KINDS[shape]}"
            draw(colour, shape, size, rng).save(folder / "photos" / f"{sku}.png")
            about = f"made of {rng.choice(['wood', 'clay', 'glass'])} in {rng.choice(['siena', 'turku', 'quito'])}"
            table.writerow([sku, f"{size} {name}", about, colour, size, f"photos/{sku}.png", rng.randrange(5, 40)])
            photo = {"ask": "what is in this picture ?", "say": name, "photo": f"photos/{sku}.png", "topic": "product"}
            words = {"ask": f"{about} . where is it made ?", "say": about.split()[-1], "photo": None, "topic": "origin"}
            questions += [{"sku": sku, **photo}, {"sku": sku, **words}]
    lines = "".join(json.dumps(row) + "\n" for row in questions)
    (folder / "questions.jsonl").write_text(lines, encoding="utf-8")
    customers = [f"c{rng.randrange(30):02d}" for _ in range(400)]
    skus = [f"sku{rng.randrange(len(things)):03d}" for _ in customers]
    when = pa.array([1000 * (1_700_000_000 + 600 * k) for k in range(len(customers))], pa.timestamp("ms"))
    pq.write_table(pa.table({"customer": customers, "sku": skus, "when": when}), folder / "orders.parquet")
    checks(folder, things)
    shown(folder, things)


def checks(folder: Path, things: list[tuple[str, str, str]]) -> None:
    """checks.csv: listings that somebody held against the photo by one of two rules."""
    rng = random.Random(3)
    rules = {
        "listing": "the text is a listing . it is relevant when colour and kind fit the picture",
        "colour": "the text is a listing . it is relevant when the colour fits , nothing else counts",
    }
    with (folder / "checks.csv").open("w", encoding="utf-8", newline="") as handle:
        table = csv.writer(handle, lineterminator="\n")
        table.writerow(["sku", "photo", "rule", "rule_text", "listing", "fits", "why_not"])
        for number, (colour, shape, _) in enumerate(things):
            for rule, words in rules.items():
                for _ in range(4):
                    fits, wrong = rng.random() < 0.5, "" if rule == "listing" and rng.random() < 0.5 else "colour"
                    said = {"colour": colour, "kind": KINDS[shape]}
                    if not fits:
                        wrong = wrong or "kind"
                        options = COLOURS if wrong == "colour" else KINDS.values()
                        said[wrong] = rng.choice([one for one in options if one != said[wrong]])
                    text = f"a {said['colour']} {said['kind']}"
                    row = [
                        f"sku{number:03d}",
                        f"photos/sku{number:03d}.png",
                        rule,
                        words,
                        text,
                        "yes" if fits else "no",
                    ]
                    table.writerow([*row, "" if fits else wrong])


def shown(folder: Path, things: list[tuple[str, str, str]]) -> None:
    """shown.csv: what customers saw and bought, by the colour that each likes; reviews.csv: some words, and on what."""
    rng, moment = random.Random(4), 1_700_000_000
    tastes = {f"c{number:02d}": rng.choice(list(COLOURS)) for number in range(40)}
    with (
        (folder / "shown.csv").open("w", encoding="utf-8", newline="") as seen,
        (folder / "reviews.csv").open("w", encoding="utf-8", newline="") as said,
    ):
        events, reviews = (csv.writer(handle, lineterminator="\n") for handle in (seen, said))
        events.writerow(["customer", "sku", "when", "bought"])
        reviews.writerow(["customer", "sku", "when", "stars", "about", "words"])
        for _ in range(3_000):
            customer, number = rng.choice(list(tastes)), rng.randrange(len(things))
            moment += rng.randrange(60, 1_200)
            colour, shape, size = things[number]
            bought = rng.random() < (0.7 if colour == tastes[customer] else 0.02)
            events.writerow([customer, f"sku{number:03d}", moment, int(bought)])
            if rng.random() < (0.4 if bought else 0.01):
                told = {"well made": "", "a good size": "size", f"just the {KINDS[shape]} i wanted": KINDS[shape]}
                told[f"nicely {size}"] = size
                words = rng.choice(list(told))
                stars = rng.choice([4, 5] if bought else [1, 2])
                reviews.writerow([customer, f"sku{number:03d}", moment + 50, stars, told[words], f"{words} ."])


def chats(folder: Path) -> None:
    """Chats about pictures as LLaVA writes them, and chats in words as ShareGPT does."""
    rng = random.Random(2)
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    about_pictures, in_words = [], []
    for number in range(60):
        colour, shape, size = rng.choice(list(COLOURS)), rng.choice(SHAPES), rng.choice(list(SIZES))
        name = f"{number:03d}.png"
        draw(colour, shape, size, rng).save(folder / "pictures" / name)
        asked = [("which colour ?", colour), ("which shape ?", shape)]
        rng.shuffle(asked)
        roles = ("human", "gpt")
        said = [{"from": who, "value": text} for pair in asked for who, text in zip(roles, pair, strict=True)]
        said[0]["value"] = f"<image>\n{said[0]['value']}"
        about_pictures.append({"id": f"{number:03d}", "image": name, "conversations": said})
        first, second = rng.sample(range(1, 13), 2)
        turns = [("user", f"which is more , {first} or {second} ?"), ("assistant", str(max(first, second)))]
        in_words.append({"messages": [{"role": role, "content": text} for role, text in turns]})
    (folder / "llava.json").write_text(json.dumps(about_pictures, indent=1) + "\n", encoding="utf-8")
    (folder / "sharegpt.jsonl").write_text("".join(json.dumps(row) + "\n" for row in in_words), encoding="utf-8")


if __name__ == "__main__":
    shop(HERE / "shop")
    chats(HERE / "chats")
