"""The generated kitchen catalogue as a source: renders pictures and clips once, then streams every table."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from latefuse import progress
from latefuse.data.demo import clips, feed, journey, judgements, looks, pictures, users, words, world
from latefuse.sections import Section

Row = dict[str, Any]


class DemoOptions(Section):
    """How large the generated world is. The same options give the same bytes.

    clips: without them items have no clip, and nothing is asked about one. visits: by `taste` users follow what all
    modalities show, and write reviews; by `look` each sees dishes of one look only, so that nothing but the picture
    tells which dishes are seen together; in a `feed` each is shown `shown` dishes and likes one in fifty, of a colour
    that the picture shows and an origin that the card tells; on a `journey` each stays with an origin that the card
    tells and goes through the colours that the pictures show in a fixed cycle. judgements: rounds of eight about each
    dish.
    """

    dishes: int = Field(720, ge=24)
    users: int = Field(800, ge=1)
    pictures: int = Field(2, ge=1)
    seed: int = 7
    clips: bool = True
    visits: Literal["taste", "look", "feed", "journey"] = "taste"
    shown: int = Field(500, ge=1)
    judgements: int = Field(1, ge=0)


class Demo:
    """A kitchen catalogue in which every modality shows something that the others can't."""

    name = "demo"
    Options = DemoOptions

    def __init__(self, root: Path, options: DemoOptions) -> None:
        self.root = root
        self.options = options
        self.menu = world.dishes(options.dishes, options.seed)

    def tables(self) -> Mapping[str, Callable[[], Iterator[Row]]]:
        """Items, users (on a journey), events, reviews (but by look), judgements (if any) and conversations; media are
        rendered on the first call."""
        self.render()
        return {
            "items": self.items,
            **({"users": self.users} if self.options.visits == "journey" else {}),
            "events": self.events,
            **({} if self.options.visits == "look" else {"reviews": self.reviews}),
            **({"judgements": self.judgements} if self.options.judgements else {}),
            "conversations": self.conversations,
        }

    def render(self) -> None:
        """Draw what is not there yet. A stamp with the options marks a finished folder."""
        stamp = self.root / "demo.json"
        wanted = self.options.model_dump_json()
        if stamp.exists() and stamp.read_text() == wanted:
            return
        for folder in ("pictures", "clips"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor() as pool:
            drawn = pool.map(self._render_dish, self.menu)
            for _ in progress.bar(drawn, total=len(self.menu), desc="drawing dishes", unit="dish"):
                pass
        stamp.write_text(wanted)

    def _render_dish(self, dish: world.Dish) -> None:
        for k, path in enumerate(self._pictures(dish)):
            pictures.dish_picture(dish, self._rng(dish, f"picture/{k}")).save(self.root / path)
        if self.options.judgements:
            pictures.step_picture(dish, self._rng(dish, "step")).save(self.root / self._step(dish))
        for path in self._clips(dish):
            clips.write_clip(clips.dish_frames(dish, self._rng(dish, "clip")), self.root / path)

    def _pictures(self, dish: world.Dish) -> list[str]:
        return [f"pictures/{dish.id}-{k}.png" for k in range(self.options.pictures)]

    def _step(self, dish: world.Dish) -> str:
        return f"pictures/{dish.id}-step.png"

    def _clips(self, dish: world.Dish) -> list[str]:
        return [f"clips/{dish.id}.mp4"] if self.options.clips else []

    def _rng(self, dish: world.Dish, part: str) -> random.Random:
        return random.Random(f"{self.options.seed}/{dish.id}/{part}")

    def _card(self, dish: world.Dish) -> str:
        return words.card(dish, self._rng(dish, "card"))

    def items(self) -> Iterator[Row]:
        """A dish each. The title tells nothing; the planted truth is in the attributes, for evaluation only."""
        for dish in self.menu:
            planted = {part: getattr(dish, part) for part in world.ATTRIBUTES}
            planted |= {"name": dish.name, "additions": dish.additions, "allergens": dish.allergens}
            yield {
                "id": dish.id,
                "title": f"house special {dish.id.rpartition('-')[2]}",
                "text": self._card(dish),
                "attributes": json.dumps(planted),
                "images": self._pictures(dish),
                "videos": self._clips(dish),
                "language": "en",
                "licence": "Apache-2.0",
                "split_item": dish.split,
            }

    def users(self) -> Iterator[Row]:
        """Who is on a journey. The planted taste is in the attributes, for evaluation only."""
        for one in journey.travellers(self.options.users, self.options.seed):
            planted = {"origin": one.origin, "notices": one.notices}
            yield {"id": one.id, "name": one.name, "attributes": json.dumps(planted)}

    def events(self) -> Iterator[Row]:
        """Views and likes; by look and on a journey, views alone; in a feed what was shown."""
        if self.options.visits == "look":
            yield from looks.visits(self.menu, self.options.users, self.options.seed)
            return
        for event, _ in self._behaviour():
            yield event

    def reviews(self) -> Iterator[Row]:
        """What users wrote about some of their visits."""
        for _, review in self._behaviour():
            if review:
                yield {**review, "images": []}

    def _behaviour(self) -> Iterator[tuple[Row, Row | None]]:
        if self.options.visits == "feed":
            return feed.shown(self.menu, self.options.users, self.options.shown, self.options.seed)
        if self.options.visits == "journey":
            return journey.visits(self.menu, self.options.users, self.options.seed)
        people = users.users(self.options.users, self.options.seed)
        return users.behaviour(people, self.menu, self.options.seed)

    def judgements(self) -> Iterator[Row]:
        """Rounds about every dish: does the text fit the picture, by the rule?"""
        for dish in self.menu:
            photos = self._pictures(dish)
            for turn in range(self.options.judgements):
                rng = self._rng(dish, f"judgements/{turn}")
                for number, asked in enumerate(judgements.judgements(dish, self.menu, rng)):
                    photo = self._step(dish) if asked.picture == "step" else photos[turn % len(photos)]
                    row = f"{dish.id}-judgement-{turn}-{number}"
                    yield {"id": row, "image": photo, "item": dish.id, "split_item": dish.split, **asked.row()}

    def conversations(self) -> Iterator[Row]:
        """Picture to name, clip to name and recipe, card to name, allergens and origin."""
        for dish in self.menu:
            card = self._card(dish)
            for k, picture in enumerate(self._pictures(dish)):
                yield self._conversation(dish, "image", "dish", card, [{"modality": "image", "path": picture}], f"-{k}")
            for clip in self._clips(dish):
                for topic in ("dish", "recipe"):
                    yield self._conversation(dish, "video", topic, card, [{"modality": "video", "path": clip}])
            for topic in ("dish", "allergens", "origin"):
                yield self._conversation(dish, "text", topic, card, [])

    def _conversation(
        self, dish: world.Dish, modality: str, topic: str, card: str, media: list[Row], suffix: str = ""
    ) -> Row:
        question, answer, truth = words.conversation(dish, modality, topic, card)
        return {
            "id": f"{dish.id}-{modality}-{topic}{suffix}",
            "modality": modality,
            "topic": topic,
            "item": dish.id,
            "media": media,
            "turns": [{"role": "user", "text": question}, {"role": "assistant", "text": answer}],
            "truth": json.dumps(truth),
            "split_item": dish.split,
        }
