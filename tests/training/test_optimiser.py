"""Rates against diffusers' schedules; every optimiser's state through a file; updates left out."""

import importlib.util
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.optimization import get_scheduler
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from cogvx.errors import ConfigError, IntegrityError
from cogvx.training.optimiser import clip_gradients, lr_at, make_optimiser, step_if
from cogvx.training.optimiser_state import optimiser_state, set_optimiser_state
from tests.fixtures.training_runs import make_recipe

THEIR_NAMES = {"constant": "constant_with_warmup", "cosine": "cosine", "linear": "linear"}
# the second and third are long enough for bitsandbytes to keep them in 8 bits; B begins as zeros
SHAPES = {"small.lora_A": (3, 2), "wide.lora_A": (8, 640), "wide.lora_B": (640, 8)}
NAMES = list(SHAPES)
# two of them from the extra `optimisers`, of which only Prodigy's package is among those for tests
EIGHT_BIT = pytest.param(
    "adamw8bit",
    marks=pytest.mark.skipif(not find_spec("bitsandbytes"), reason="bitsandbytes is not installed"),
)
KINDS = ("adamw", EIGHT_BIT, "prodigy")
TRUE, FALSE = torch.tensor(data=True), torch.tensor(data=False)


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


def recipe_of(kind: str) -> Any:
    rate = 1.0 if kind == "prodigy" else 1e-2
    return make_recipe(Path("b"), optimiser=kind, learning_rate=rate, warmup_steps=2).train


def fresh(kind: str = "adamw") -> tuple[list[nn.Parameter], Optimizer]:
    generator = torch.Generator().manual_seed(1)
    parameters = [
        nn.Parameter(
            torch.zeros(shape) if name.endswith("B") else torch.randn(shape, generator=generator)
        )
        for name, shape in SHAPES.items()
    ]
    return parameters, make_optimiser(parameters, recipe_of(kind))


def set_gradients(parameters: Sequence[nn.Parameter], number: int) -> None:
    for index, parameter in enumerate(parameters):
        generator = torch.Generator().manual_seed(number * 10 + index)
        parameter.grad = 0.1 + torch.randn(parameter.shape, generator=generator)


def updates(
    parameters: Sequence[nn.Parameter], optimiser: Optimizer, kind: str, count: range
) -> None:
    for number in count:
        set_gradients(parameters, number)
        for group in optimiser.param_groups:
            group["lr"] = lr_at(number, recipe_of(kind))
        step_if(optimiser, TRUE)


def snapshot(parameters: Sequence[nn.Parameter], optimiser: Optimizer) -> dict[str, Tensor]:
    weights = dict(zip(NAMES, (p.detach().clone() for p in parameters), strict=True))
    return {**weights, **optimiser_state(optimiser, NAMES)}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert (tensor.dtype, tensor.shape) == (other[name].dtype, other[name].shape)
        assert torch.equal(tensor, other[name]), name


@pytest.mark.parametrize("before", [0, 1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_state_put_back_from_a_file_goes_on_bit_for_bit(kind: str, before: int) -> None:
    parameters, optimiser = fresh(kind)
    updates(parameters, optimiser, kind, range(before))
    state = load(save(optimiser_state(optimiser, NAMES)))
    weights = [parameter.detach().clone() for parameter in parameters]
    updates(parameters, optimiser, kind, range(before, before + 4))

    others, other_optimiser = fresh(kind)
    for parameter, weight in zip(others, weights, strict=True):
        parameter.data.copy_(weight)
    set_optimiser_state(other_optimiser, NAMES, state)
    assert_same(state, optimiser_state(other_optimiser, NAMES))
    updates(others, other_optimiser, kind, range(before, before + 4))
    assert_same(snapshot(parameters, optimiser), snapshot(others, other_optimiser))
    assert not any(torch.equal(p, w) for p, w in zip(parameters, weights, strict=True))


@pytest.mark.parametrize(("kind", "name"), [("adamw", "AdamW"), ("prodigy", "Prodigy")])
def test_an_optimiser_is_what_it_is_called(kind: str, name: str) -> None:
    assert type(fresh(kind)[1]).__name__ == name


@pytest.mark.parametrize("kind", [EIGHT_BIT])
def test_8_bit_adamw_keeps_large_moments_in_8_bits(kind: str) -> None:
    parameters, optimiser = fresh(kind)
    updates(parameters, optimiser, kind, range(1))
    state = optimiser_state(optimiser, NAMES)
    assert state["wide.lora_A/state1"].dtype == state["wide.lora_B/state2"].dtype == torch.uint8
    assert state["small.lora_A/state1"].dtype == torch.float32


def test_prodigy_finds_a_rate_and_keeps_it(capsys: pytest.CaptureFixture[str]) -> None:
    parameters, optimiser = fresh("prodigy")
    assert capsys.readouterr().out == ""  # its constructor likes to print
    for _ in range(10):
        for parameter in parameters:
            parameter.grad = parameter.detach() - 3  # to where it has a long way to go
        step_if(optimiser, TRUE)
    state = optimiser_state(optimiser, NAMES)
    assert state["group/d"].item() > 1e-5  # it begins at 1e-6
    assert state["group/k"].item() == 10
    assert state["group/d"].dtype == torch.float64
    assert optimiser.param_groups[0]["weight_decay"] == recipe_of("prodigy").weight_decay


@pytest.mark.parametrize("kind", KINDS)
def test_an_update_left_out_changes_no_bit(kind: str) -> None:
    parameters, optimiser = fresh(kind)
    updates(parameters, optimiser, kind, range(3))
    before = snapshot(parameters, optimiser)
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, float("nan"))
    step_if(optimiser, FALSE)
    assert_same(before, snapshot(parameters, optimiser))


def test_fused_adamw_leaves_an_update_out_without_being_asked_on_the_host() -> None:
    plain_parameters, plain = fresh()
    parameters, _ = fresh()
    same = {name: plain.defaults[name] for name in ("lr", "betas", "weight_decay")}
    fused = AdamW(parameters, fused=True, **same)
    for number, taken in enumerate([FALSE, TRUE, FALSE, FALSE, TRUE]):
        before = snapshot(parameters, fused)
        for each in (plain_parameters, parameters):
            set_gradients(each, number)
        if taken:
            plain.step()
        else:
            parameters[0].grad = torch.full_like(parameters[0], float("inf"))
        step_if(fused, taken)
        if not taken and number:
            assert_same(before, snapshot(parameters, fused))
    ours, theirs = snapshot(parameters, fused), snapshot(plain_parameters, plain)
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-7)
    assert ours["wide.lora_A/step"].item() == 2


def test_a_state_that_does_not_fit_is_refused() -> None:
    parameters, optimiser = fresh()
    updates(parameters, optimiser, "adamw", range(1))
    state = optimiser_state(optimiser, NAMES)
    with pytest.raises(IntegrityError, match=r"does not fit: c/exp_avg and 5 more"):
        set_optimiser_state(optimiser, ["c", *NAMES[1:]], state)
    with pytest.raises(IntegrityError, match=r"small\.lora_A/exp_avg has another shape"):
        set_optimiser_state(optimiser, NAMES, {**state, "small.lora_A/exp_avg": torch.zeros(2, 2)})


@pytest.mark.parametrize("theirs", KINDS)
@pytest.mark.parametrize("ours", KINDS)
def test_the_state_of_another_optimiser_is_refused(ours: str, theirs: str) -> None:
    if ours == theirs:
        return
    parameters, optimiser = fresh(theirs)
    updates(parameters, optimiser, theirs, range(3))
    with pytest.raises(IntegrityError, match="the optimiser's state does not fit"):
        set_optimiser_state(fresh(ours)[1], NAMES, optimiser_state(optimiser, NAMES))


@pytest.mark.parametrize(
    ("kind", "package"), [("adamw8bit", "bitsandbytes"), ("prodigy", "prodigyopt")]
)
def test_an_optimiser_that_is_not_installed_is_refused_with_what_to_install(
    kind: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else found(name)
    )
    with pytest.raises(ConfigError) as refusal:
        fresh(kind)
    assert str(refusal.value) == (
        f'train.optimiser = "{kind}" needs the package {package}, which is not installed on this '
        f'machine; run `pip install {package}`, or use "adamw"'
    )
    fresh("adamw")


def test_clipping_looks_at_all_parameters_together() -> None:
    first, second = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    first.grad, second.grad = torch.tensor([3.0]), torch.tensor([4.0])
    assert clip_gradients([first, second], 1.0).item() == pytest.approx(5.0)
    assert first.grad.item() == pytest.approx(0.6, rel=1e-5)
