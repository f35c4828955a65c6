"""The mean of the weights against torch's own averaging, and through a file."""

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from cogvx.errors import IntegrityError
from cogvx.training.ema import Ema

TRUE, FALSE = torch.tensor(data=True), torch.tensor(data=False)
DECAY = 0.7


def model_of(seed: int = 1) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(4, 3)


def move(model: nn.Module, number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    for parameter in model.parameters():
        parameter.data += torch.randn(parameter.shape, generator=generator)


def warmed_up(mean: Tensor, weight: Tensor, updates: Tensor | int) -> Tensor:
    """For AveragedModel, which takes the first weights as they are and asks from then on."""
    n = int(updates) - 1
    share = min(DECAY, (1 + n) / (10 + n))
    return share * mean + (1 - share) * weight


def test_the_mean_equals_torchs_own_with_the_same_warm_up() -> None:
    model = model_of()
    ema = Ema(dict(model.named_parameters()), DECAY)
    theirs = AveragedModel(model, avg_fn=warmed_up)
    theirs.update_parameters(model)  # the start
    for number in range(60):
        move(model, number)
        ema.update(TRUE)
        theirs.update_parameters(model)
    state = ema.state()
    assert state["updates"].item() == 60
    for name, mean in theirs.module.named_parameters():
        torch.testing.assert_close(state[name], mean.detach(), rtol=1e-6, atol=1e-6)


def test_the_first_updates_count_more_than_the_start() -> None:
    weight = nn.Parameter(torch.zeros(2))
    ema = Ema({"w": weight}, 0.9999)
    weight.data += 1
    ema.update(TRUE)
    assert ema.state()["w"].tolist() == pytest.approx([0.9, 0.9])


def test_a_skipped_update_leaves_the_mean_and_its_count() -> None:
    model = model_of()
    ema = Ema(dict(model.named_parameters()), DECAY)
    for number, taken in enumerate([TRUE, FALSE, TRUE]):
        move(model, number)
        before = ema.state()
        ema.update(taken)
        changed = not all(torch.equal(value, before[name]) for name, value in ema.state().items())
        assert changed == bool(taken)
    assert ema.state()["updates"].item() == 2


def test_the_parameters_hold_the_mean_for_a_while_and_then_themselves_again() -> None:
    model = model_of()
    ema = Ema(dict(model.named_parameters()), DECAY)
    for number in range(3):
        move(model, number)
        ema.update(TRUE)
    raw = {name: value.detach().clone() for name, value in model.named_parameters()}
    mean = ema.state()
    with ema.applied():
        assert all(torch.equal(value, mean[name]) for name, value in model.named_parameters())
    assert all(torch.equal(value, raw[name]) for name, value in model.named_parameters())
    assert all(torch.equal(value, mean[name]) for name, value in ema.state().items())


def test_a_mean_put_back_from_a_file_goes_on_bit_for_bit() -> None:
    model, other = model_of(), model_of(seed=2)
    ema = Ema(dict(model.named_parameters()), DECAY)
    for number in range(4):
        move(model, number)
        ema.update(TRUE)
    again = Ema(dict(other.named_parameters()), DECAY)
    again.set_state(load(save(ema.state())))
    other.load_state_dict(model.state_dict())
    for number in range(4, 30):
        for each, mean in ((model, ema), (other, again)):
            move(each, number)
            mean.update(TRUE)
    assert all(torch.equal(value, again.state()[name]) for name, value in ema.state().items())


def test_a_mean_of_something_else_is_refused() -> None:
    ema = Ema({"w": nn.Parameter(torch.zeros(2))}, DECAY)
    with pytest.raises(IntegrityError, match="the mean of the weights does not fit: updates"):
        ema.set_state({"w": torch.zeros(2)})
    with pytest.raises(IntegrityError, match="does not fit: w"):
        ema.set_state({"w": torch.zeros(3), "updates": torch.tensor(1)})
