"""Numbers on their way off the device: one exchange, in the order of the global batch."""

from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from cogvx.objective.sampler import Sampler
from cogvx.recipe_sections import TrainConfig
from cogvx.training.metrics import Place, Scores, Window, norm_of


class Ranks(Accelerator):
    """An accelerator among several whose answers are known: counts what it is asked to gather."""

    others: list[Tensor]
    asked: list[Tensor]

    def gather(self, tensor: Any) -> Any:
        self.asked.append(tensor)
        return torch.cat([tensor, *self.others])

    @property
    def num_processes(self) -> int:
        return 1 + len(self.others)


def among(*others: Tensor) -> Ranks:
    ranks = Ranks(cpu=True)
    ranks.others, ranks.asked = list(others), []
    return ranks


def filled(train: TrainConfig, rank: int, updates: int) -> Window:
    """Losses that say their place: update + position / 100; timesteps are positions."""
    sampler, window = Sampler(((0,),), train), Window()
    for update in range(updates):
        positions = [p for m in range(train.accumulation) for p in sampler.positions(m, rank)]
        losses = torch.tensor([update + position / 100 for position in positions])
        window.add(Scores(losses, torch.tensor(positions)), torch.tensor(float(update)))
    return window


def sent(window: Window, own: float) -> Tensor:
    """What a process tells the others: losses, timesteps, norms, its own numbers."""
    losses = [one.loss_b for one in window.scores]
    timesteps = [one.timesteps_b for one in window.scores]
    return torch.cat([*losses, *timesteps, torch.stack(window.norms), torch.tensor([own])]).double()


def test_losses_come_in_the_order_of_the_global_batch_in_one_exchange() -> None:
    train = TrainConfig(steps=9, global_batch=12, micro_batch=2, processes=3)
    ranks = among(*(sent(filled(train, rank, updates=4), own=rank) for rank in (1, 2)))
    reading = filled(train, 0, updates=4).read(ranks, train, own=(0.0,))
    assert len(ranks.asked) == 1
    assert torch.equal(ranks.asked[0], sent(filled(train, 0, updates=4), own=0.0))
    for number, update in enumerate(reading.updates):
        assert update.losses == pytest.approx([number + p / 100 for p in range(12)], abs=1e-6)
        assert update.timesteps == list(range(12))
        assert update.grad_norm == number
    assert reading.own == ((0.0,), (1.0,), (2.0,))


def test_a_window_is_empty_once_it_was_read_and_may_be_read_empty() -> None:
    train = TrainConfig(steps=9, global_batch=2)
    window = filled(train, 0, updates=3)
    assert len(window.read(among(), train, own=()).updates) == 3
    reading = window.read(among(), train, own=(torch.tensor(7.0), 8.0))
    assert reading.updates == ()
    assert reading.own == ((7.0, 8.0),)


def test_norms_are_of_all_weights_together() -> None:
    weights = [nn.Parameter(torch.full((2, 3), 2.0)), nn.Parameter(torch.full((5,), -1.0))]
    assert float(norm_of(weights)) == pytest.approx((6 * 4 + 5) ** 0.5)
    place = Place.of(weights)
    assert float(place.distance(weights)) == 0
    with torch.no_grad():
        weights[0] += 1
        weights[1] -= 2
    assert float(place.distance(weights)) == pytest.approx((6 + 20) ** 0.5)
