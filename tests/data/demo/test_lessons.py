"""What the demo base is shown: never a held-out dish, a recipe or an answer."""

from __future__ import annotations

from latefuse.data.demo import world
from latefuse.data.demo.lessons import Lessons
from latefuse.data.demo.oracle import read_picture


def test_no_scene_shows_a_held_out_triple() -> None:
    lessons = Lessons(seed=0, frames=8, scenes=150)
    for _, number in lessons.scenes:
        read = read_picture(lessons.drawings[number])
        assert world.held_out(read["colour"], read["garnish"], read["main"]) == "train"


def test_no_media_lesson_uses_a_word_of_a_name() -> None:
    lessons = Lessons(seed=1, frames=8, scenes=50)
    names = {*world.COLOURS, *world.GARNISHES, *world.INGREDIENTS, *world.TECHNIQUES, *world.ORIGINS}
    told = {
        word
        for kind in ("picture", "frame", "drops", "frames")
        for one in lessons.batch(kind, 60)
        for part in one.answer
        for word in part.split()
    }
    assert not names & told


def test_clips_have_the_frames_of_the_base_and_one_caption_each() -> None:
    lessons = Lessons(seed=2, frames=8, scenes=1)
    for lesson in lessons.batch("frames", 20):
        assert len(lesson.shown) == 8
        assert len(lesson.answer) == 8
