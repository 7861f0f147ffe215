"""The output grammar of trained answers, so that an untrained model does not fail for its format alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from latefuse.tasks.instruct import Example

Allowed = Callable[[Example, list[int]], list[int]]
START = -1


def learned_grammar(answers: Iterable[Sequence[int]], order: int = 2) -> Allowed:
    """What may follow the last `order` tokens, as the training answers do it; every string it allows can end.

    answers: token ids of training answers, the end token last. A generous control: it tells the words and their
    neighbours, though not which of them this row needs. Raises ValueError without answers.
    """
    follows: dict[tuple[int, ...], set[int]] = defaultdict(set)
    for answer in answers:
        padded = [START] * order + list(answer)
        for k in range(order, len(padded)):
            follows[tuple(padded[k - order : k])].add(padded[k])
    if not follows:
        raise ValueError("no training answers to learn the output grammar from")
    table = {context: sorted(tokens) for context, tokens in follows.items()}

    def allowed(row: Example, generated: list[int]) -> list[int]:
        context = ([START] * order + list(generated))[-order:]
        return table.get(tuple(context), [])

    return allowed
