"""Learning rates against diffusers' schedules; AdamW's state through names and back."""

from pathlib import Path

import pytest
import torch
from diffusers.optimization import get_scheduler
from torch import nn

from cogvx.errors import IntegrityError
from cogvx.training.optimiser import clip_gradients, lr_at, make_optimiser
from cogvx.training.optimiser_state import optimiser_state, set_optimiser_state
from tests.training.runs import make_recipe

THEIR_NAMES = {"constant": "constant_with_warmup", "cosine": "cosine", "linear": "linear"}


@pytest.mark.parametrize("warmup", [0, 1, 7])
@pytest.mark.parametrize("schedule", THEIR_NAMES)
def test_learning_rates_equal_those_of_diffusers(schedule: str, warmup: int) -> None:
    train = make_recipe(Path("b"), steps=30, warmup_steps=warmup, lr_schedule=schedule).train
    optimiser = make_optimiser([nn.Parameter(torch.zeros(1))], train)
    theirs = get_scheduler(
        THEIR_NAMES[schedule], optimiser, num_warmup_steps=warmup, num_training_steps=30
    )
    for step in range(30):
        assert lr_at(step, train) == pytest.approx(theirs.get_last_lr()[0], rel=1e-12, abs=1e-18)
        optimiser.step()
        theirs.step()


def updates(parameters: list[nn.Parameter], optimiser: torch.optim.AdamW, count: range) -> None:
    for number in count:
        for index, parameter in enumerate(parameters):
            generator = torch.Generator().manual_seed(number * 10 + index)
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimiser.step()


def fresh() -> tuple[list[nn.Parameter], torch.optim.AdamW]:
    parameters = [nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(4))]
    return parameters, make_optimiser(parameters, make_recipe(Path("b")).train)


def test_state_put_back_goes_on_bit_for_bit() -> None:
    parameters, optimiser = fresh()
    updates(parameters, optimiser, range(3))
    state = optimiser_state(optimiser, ["a", "b"])
    weights = [parameter.detach().clone() for parameter in parameters]
    updates(parameters, optimiser, range(3, 6))

    others, other_optimiser = fresh()
    for parameter, weight in zip(others, weights, strict=True):
        parameter.data.copy_(weight)
    set_optimiser_state(other_optimiser, ["a", "b"], state)
    updates(others, other_optimiser, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(parameters, others, strict=True))


def test_a_state_that_does_not_fit_is_refused() -> None:
    parameters, optimiser = fresh()
    updates(parameters, optimiser, range(1))
    state = optimiser_state(optimiser, ["a", "b"])
    with pytest.raises(IntegrityError, match="does not fit: a/exp_avg and 5 more"):
        set_optimiser_state(optimiser, ["c", "b"], state)
    state["a/exp_avg"] = torch.zeros(2, 2)
    with pytest.raises(IntegrityError, match="a/exp_avg has another shape"):
        set_optimiser_state(optimiser, ["a", "b"], state)


def test_clipping_looks_at_all_parameters_together() -> None:
    first, second = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    first.grad, second.grad = torch.tensor([3.0]), torch.tensor([4.0])
    assert clip_gradients([first, second], 1.0).item() == pytest.approx(5.0)
    assert first.grad.item() == pytest.approx(0.6, rel=1e-5)
