"""Mixtures of log-probabilities against plain arithmetic on probabilities."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latefuse.fusion.scores import learn_weights, mix, nll


def random_log_probs(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.log_softmax(3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_a_mixture_is_the_normalised_product_of_powers():
    log_probs, weights = random_log_probs(3, 4, 7), torch.tensor([0.2, 0.5, 1.1])
    for row in range(4):
        powers = [math.prod(math.exp(log_probs[m, row, v]) ** float(weights[m]) for m in range(3)) for v in range(7)]
        expected = torch.tensor([power / sum(powers) for power in powers]).log()
        torch.testing.assert_close(mix(log_probs, weights)[row], expected, atol=1e-5, rtol=1e-5)


def test_one_member_of_weight_one_is_itself():
    log_probs = random_log_probs(1, 5, 9)
    torch.testing.assert_close(mix(log_probs, torch.ones(1)), log_probs[0])
    three = random_log_probs(3, 5, 9)
    torch.testing.assert_close(mix(three, torch.tensor([0.0, 1.0, 0.0])), three[1])


@given(st.lists(st.booleans(), min_size=3, max_size=3).filter(any), st.integers(0, 50))
@settings(max_examples=40, deadline=None)
def test_a_missing_member_equals_the_remaining_ones_renormalised(flags, seed):
    log_probs, weights = random_log_probs(3, 2, 6, seed=seed), torch.tensor([0.5, 0.3, 0.2])
    present = torch.tensor(flags)
    rest = weights[present] / weights[present].sum()
    expected = mix(log_probs[present], rest)
    poisoned = log_probs.masked_fill(~present.reshape(3, 1, 1), float("nan"))
    torch.testing.assert_close(mix(poisoned, weights, present.reshape(3, 1).expand(3, 2)), expected)


def test_rows_may_miss_different_members():
    log_probs, weights = random_log_probs(2, 3, 6), torch.tensor([0.9, 0.6])
    present = torch.tensor([[True, False, True], [True, True, False]])
    found = mix(log_probs, weights, present)
    torch.testing.assert_close(found[0], mix(log_probs[:, 0], weights))
    torch.testing.assert_close(found[1], mix(log_probs[1:, 1], torch.tensor([1.5])))
    torch.testing.assert_close(found[2], mix(log_probs[:1, 2], torch.tensor([1.5])))


def test_the_order_of_the_members_does_not_matter():
    log_probs, weights = random_log_probs(3, 4, 7), torch.tensor([0.2, 0.5, 1.1])
    turned = mix(log_probs.flip(0), weights.flip(0))
    torch.testing.assert_close(turned, mix(log_probs, weights))


def test_impossible_tokens_stay_impossible_unless_their_member_has_no_weight():
    log_probs = random_log_probs(2, 1, 4)
    log_probs[0, 0, 2] = -math.inf
    found = mix(log_probs, torch.tensor([0.5, 0.5]))
    assert found[0, 2] == -math.inf
    assert found.exp().sum() == pytest.approx(1)
    torch.testing.assert_close(mix(log_probs, torch.tensor([0.0, 1.0])), log_probs[1])


@pytest.mark.parametrize(
    ("weights", "present", "message"),
    [
        ([0.5, -0.1], None, "at least one"),
        ([0.0, 0.0], None, "at least one"),
        ([1.0], None, "one for each"),
        ([1.0, 1.0], [[True, False], [True, False]], r"row \[1\]"),
        ([1.0, 0.0], [[True, False], [True, True]], r"row \[1\]"),
        ([1.0, 1.0], [[True], [True]], "one flag"),
    ],
)
def test_wrong_input_is_refused(weights, present, message):
    flags = None if present is None else torch.tensor(present)
    with pytest.raises(ValueError, match=message):
        mix(random_log_probs(2, 2, 5), torch.tensor(weights), flags)


def test_members_that_exclude_each_other_are_refused():
    log_probs = torch.tensor([[[0.0, -math.inf]], [[-math.inf, 0.0]]])
    with pytest.raises(ValueError, match="no possible token"):
        mix(log_probs, torch.ones(2))


def planted(tokens: int = 400, weights=(1.4, 0.5, 0.0)):
    """Targets drawn from a mixture of known weights; the third member is noise."""
    log_probs = random_log_probs(3, tokens, 12, seed=5)
    generator = torch.Generator().manual_seed(6)
    targets = torch.multinomial(mix(log_probs, torch.tensor(weights)).exp(), 1, generator=generator).squeeze(1)
    return log_probs, targets


def test_learning_finds_the_planted_weights():
    log_probs, targets = planted(4000)
    learned = learn_weights(log_probs, targets, steps=400)
    assert learned.weights.tolist() == pytest.approx([1.4, 0.5, 0.0], abs=0.08)
    assert learned.after == pytest.approx(float(nll(log_probs, targets, learned.weights)))
    assert learned.before == pytest.approx(float(nll(log_probs, targets, torch.full((3,), 1 / 3))))
    assert learned.after < learned.before - 0.1
    assert learned.after < min(learned.alone)
    assert learned.alone[2] == pytest.approx(float(nll(log_probs[2:], targets, torch.ones(1))))


def test_learning_never_reads_an_absent_member():
    log_probs, targets = planted()
    present = torch.ones(3, 400, dtype=torch.bool)
    present[0, ::2] = False
    present[2] = False
    clean = learn_weights(log_probs, targets, present, steps=50)
    log_probs[~present] = float("nan")
    poisoned = learn_weights(log_probs, targets, present, steps=50)
    assert torch.equal(clean.weights, poisoned.weights)
    assert clean.after == poisoned.after
    assert math.isnan(poisoned.alone[2])
    assert poisoned.alone[0] == clean.alone[0]


def test_learning_survives_ruled_out_tokens_and_refuses_no_tokens():
    log_probs, targets = planted()
    log_probs[1, 0, (targets[0] + 1) % 12] = -math.inf
    assert bool(torch.isfinite(learn_weights(log_probs, targets, steps=20).weights).all())
    with pytest.raises(ValueError, match="no tokens"):
        learn_weights(log_probs[:, :0], targets[:0])
