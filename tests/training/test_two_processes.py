"""Two processes train what one does: other draws in each, and the same gradient in both."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cogvx.shapes import VideoSize
from tests.fixtures.forks import Forks
from tests.fixtures.training_runs import make_run
from tests.training.ranks import start

SHARE, AGREE = "tests.training.ranks:share", "tests.training.ranks:agree"
Found = dict[str, Tensor]


@pytest.fixture(scope="module")
def shares(
    trainers: Forks, nano_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., list[Found]]:
    """What each process of a run drew and learned."""

    def train(base: Path = nano_base, **layout: int) -> list[Found]:
        folder = tmp_path_factory.mktemp("share")
        train = {"global_batch": 4, "size": VideoSize(9, 16, 16), "learning_rate": 1e-4, **layout}
        root = make_run(folder / "run", base, clips=6, heldout=0, **train)
        processes = layout["processes"]
        ranks = start(trainers, SHARE, str(root), str(folder), processes=processes, cwd=folder)
        ranks.succeed()
        return [load_file(folder / f"rank{rank}.safetensors") for rank in range(processes)]

    return train


@pytest.fixture(scope="module")
def both(shares: Callable[..., list[Found]]) -> list[Found]:
    return shares(processes=2, micro_batch=1)


@pytest.fixture(scope="module")
def joined(shares: Callable[..., list[Found]]) -> Found:
    (alone,) = shares(processes=1, micro_batch=4)
    return alone


def part(found: Found, name: str) -> Tensor:
    return torch.cat([found[key].flatten() for key in sorted(found) if key.startswith(f"{name}/")])


def test_every_process_draws_its_own_noise_and_timesteps(both: list[Found]) -> None:
    draws = [found[key] for found in both for key in sorted(found) if key.startswith("noise/")]
    assert len(draws) == 2 * 3 * 2  # processes, updates, micro-batches
    for number, noise_bfchw in enumerate(draws):
        assert all(not torch.equal(noise_bfchw, other) for other in draws[:number])
    first, second = (part(found, "noise") for found in both)
    correlation = float((first * second).mean() / (first.std() * second.std()))
    assert abs(correlation) < 5 / len(first) ** 0.5
    assert part(both[0], "timesteps").tolist() != part(both[1], "timesteps").tolist()


def test_together_they_draw_what_one_process_draws(both: list[Found], joined: Found) -> None:
    for step in range(3):
        for name in ("noise", "timesteps"):
            shared = [both[rank][f"{name}/{step}/{micro}"] for micro in (0, 1) for rank in (0, 1)]
            assert torch.equal(torch.cat(shared), joined[f"{name}/{step}/0"])


def test_their_gradient_is_that_of_the_joined_batch(both: list[Found], joined: Found) -> None:
    first, second, whole = (part(found, "gradient") for found in (*both, joined))
    assert torch.equal(first, second)
    assert whole.norm() > 0
    assert (first - whole).norm() < 1e-6 * whole.norm()


def test_after_three_updates_all_have_the_same_weights(both: list[Found], joined: Found) -> None:
    first, second, whole = (part(found, "weight") for found in (*both, joined))
    assert torch.equal(first, second)
    assert (first - whole).abs().max() < 1e-6


def test_training_takes_nothing_from_the_random_state_of_a_process(
    both: list[Found], joined: Found
) -> None:
    for found in (*both, joined):
        assert torch.equal(found["random/before"], found["random/after"])


def test_a_dropout_in_the_bases_configuration_stays_off(
    joined: Found, shares: Callable[..., list[Found]], nano_base: Path, tmp_path: Path
) -> None:
    base = shutil.copytree(nano_base, tmp_path / "base")
    path = base / "transformer" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "dropout": 0.5}))
    (found,) = shares(base, processes=1, micro_batch=4)
    assert torch.equal(part(found, "gradient"), part(joined, "gradient"))
    assert torch.equal(part(found, "weight"), part(joined, "weight"))
    assert torch.equal(found["random/before"], found["random/after"])


def test_processes_agree_when_to_stop_and_what_for(trainers: Forks, tmp_path: Path) -> None:
    start(trainers, AGREE, str(tmp_path), processes=2, cwd=tmp_path).succeed()
    for rank in (0, 1):
        assert json.loads((tmp_path / f"rank{rank}.json").read_text()) == [
            [False, None],
            [True, "max_hours"],
            [True, "signal"],
            [True, "signal"],
        ]
