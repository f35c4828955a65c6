"""The order of clips: complete epochs, and nothing that depends on how a batch is spread."""

from pathlib import Path

import pytest

from cogvx.errors import DataError
from cogvx.recipe import TrainConfig
from cogvx.training.sampler import Sampler
from tests.training.runs import make_recipe


def train_of(**changes: int) -> TrainConfig:
    return make_recipe(Path("base"), **changes).train


def test_every_epoch_shows_every_clip_once_and_in_another_order() -> None:
    sampler = Sampler(5, train_of(global_batch=2, micro_batch=1))
    line = [sampler.clip(step, position) for step in range(10) for position in range(2)]
    epochs = [line[start : start + 5] for start in range(0, 20, 5)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_another_seed_is_another_order() -> None:
    orders = {
        tuple(Sampler(9, train_of(seed=seed, global_batch=9)).clip(0, p) for p in range(9))
        for seed in range(4)
    }
    assert len(orders) == 4


@pytest.mark.parametrize(("micro", "processes"), [(1, 1), (4, 1), (2, 2), (1, 4), (8, 1)])
def test_the_positions_of_all_processes_and_micro_batches_are_the_whole_batch_once(
    micro: int, processes: int
) -> None:
    train = train_of(global_batch=8, micro_batch=micro, processes=processes)
    sampler = Sampler(3, train)
    positions = [
        position
        for part in range(train.accumulation)
        for rank in range(processes)
        for position in sampler.positions(part, rank)
    ]
    assert positions == list(range(8))


def test_no_clips_is_an_error_a_person_can_mend() -> None:
    with pytest.raises(DataError, match="no clip is left to train on; add clips"):
        Sampler(0, train_of())


def test_an_epoch_is_counted_in_clips_seen() -> None:
    assert Sampler(8, train_of(global_batch=2)).epoch(6) == 1.5
