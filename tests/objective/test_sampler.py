"""The order of windows: complete epochs, and nothing that depends on how a batch is spread."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cogvx.errors import DataError
from cogvx.objective.randomness import generator
from cogvx.objective.sampler import Sampler
from cogvx.recipe_sections import TrainConfig
from tests.fixtures.training_runs import make_recipe

RECORDED = [[2, 4, 1], [3, 5, 6], [0, 1, 5], [3, 4, 0], [2, 6, 0], [4, 1, 5]]


def train_of(**changes: int) -> TrainConfig:
    return make_recipe(Path("base"), **changes).train


def one_bucket(windows: int, **changes: int) -> Sampler:
    return Sampler.of(["a size"] * windows, train_of(**changes))


def update(sampler: Sampler, step: int) -> list[int]:
    return [sampler.clip(step, position) for position in range(sampler.train.global_batch)]


def test_every_epoch_shows_every_clip_once_and_in_another_order() -> None:
    sampler = one_bucket(5, global_batch=2, micro_batch=1)
    line = [number for step in range(10) for number in update(sampler, step)]
    epochs = [line[start : start + 5] for start in range(0, 20, 5)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_with_one_bucket_the_order_is_the_one_that_runs_have_always_had() -> None:
    # Recorded before there were buckets: a run that is resumed goes on in the order it began with.
    sampler = one_bucket(7, seed=42, global_batch=3)
    assert [update(sampler, step) for step in range(6)] == RECORDED
    epochs = [torch.randperm(7, generator=generator(42, "order", epoch)) for epoch in range(400)]
    line = torch.cat(epochs).tolist()
    assert [n for step in range(900) for n in update(sampler, step)] == line[:2700]


def test_another_seed_is_another_order() -> None:
    orders = {tuple(update(one_bucket(9, seed=seed, global_batch=9), 0)) for seed in range(4)}
    assert len(orders) == 4


@pytest.mark.parametrize(("micro", "processes"), [(1, 1), (4, 1), (2, 2), (1, 4), (8, 1)])
def test_the_positions_of_all_processes_and_micro_batches_are_the_whole_batch_once(
    micro: int, processes: int
) -> None:
    sampler = one_bucket(3, global_batch=8, micro_batch=micro, processes=processes)
    positions = [
        position
        for part in range(sampler.train.accumulation)
        for rank in range(processes)
        for position in sampler.positions(part, rank)
    ]
    assert positions == list(range(8))


@given(
    counts=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    global_batch=st.integers(1, 4),
    start=st.integers(0, 30),
)
def test_an_update_is_of_one_bucket_and_every_window_is_seen_equally_often(
    counts: list[int], global_batch: int, start: int
) -> None:
    sizes = [f"size {index}" for index, count in enumerate(counts) for _ in range(count)]
    shuffled = [sizes[i] for i in torch.randperm(len(sizes), generator=generator(1, "t")).tolist()]
    sampler = Sampler.of(shuffled, train_of(global_batch=global_batch, micro_batch=1))
    seen: Counter[int] = Counter()
    turns: Counter[str] = Counter()
    for step in range(len(sizes)):
        numbers = update(sampler, step)
        (size,) = {shuffled[number] for number in numbers}
        turns[size] += 1
        seen.update(numbers)
        for index, count in enumerate(counts):
            # never a whole update or more off what its share asks for, with two buckets
            off = turns[f"size {index}"] - (step + 1) * count / len(sizes)
            assert abs(off) < max(1, len(counts) - 1)
    assert turns == {f"size {index}": count for index, count in enumerate(counts)}
    assert set(seen.values()) == {global_batch}
    again = Sampler.of(shuffled, sampler.train)
    assert update(again, start) == update(sampler, start)  # whatever was asked for before


def test_long_runs_do_not_drift_from_the_shares() -> None:
    sampler = Sampler.of(["small"] * 3 + ["large"] * 2, train_of(global_batch=1))
    seen = Counter(sampler.clip(step, 0) for step in range(10_000_000, 10_000_500))
    assert set(seen.values()) == {100}


def test_buckets_take_turns_instead_of_following_one_another() -> None:
    sampler = Sampler.of(["a"] * 4 + ["b"] * 2, train_of(global_batch=1))
    assert ["ab"[sampler.clip(step, 0) >= 4] for step in range(6)] == list("abaaba")


def test_no_clips_is_an_error_a_person_can_mend() -> None:
    with pytest.raises(DataError, match="no clip is left to train on; add clips"):
        Sampler.of([], train_of())


def test_an_epoch_is_counted_in_windows_seen() -> None:
    assert one_bucket(8, global_batch=2).epoch(6) == 1.5
    assert Sampler.of("aaabbbbb", train_of(global_batch=2)).epoch(6) == 1.5


def test_an_order_is_shuffled_once_however_many_buckets_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shuffled, shuffle = [], torch.randperm

    def counting(*args: Any, **settings: Any) -> torch.Tensor:
        shuffled.append(args)
        return shuffle(*args, **settings)

    monkeypatch.setattr(torch, "randperm", counting)
    sizes = [size for size in range(9) for _ in range(10 + size)]
    sampler = Sampler.of(sizes, train_of(global_batch=2, micro_batch=1))
    for step in range(len(sizes)):
        update(sampler, step)
    assert len(shuffled) == 2 * 9  # two epochs of each
