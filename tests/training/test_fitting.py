"""Presets and memory: what is chosen for which machine, what is refused, and with which advice."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cogvx.adapters.card import read_card
from cogvx.errors import ConfigError
from cogvx.model.quantise import StoredLinear
from cogvx.preflight.fit import Fit, Machine, choose
from cogvx.preflight.memory import GIB, Precision, base_bytes
from cogvx.recipe import Recipe
from cogvx.runs.events import history
from cogvx.runs.folder import RunFolder
from cogvx.training.fitting import probe
from cogvx.variants import PUBLISHED, read_facts
from tests.fixtures.forks import Forks
from tests.fixtures.training_runs import make_recipe, open_trainer
from tests.model.steps import new_model
from tests.training.ranks import TRAINER, start

NewRun = Callable[..., Path]
FACTS = PUBLISHED["CogVideoX-5b"]


def recipe_of(base: Path, *, train: dict[str, Any] | None = None, **compute: Any) -> Recipe:
    recipe = make_recipe(base, dtype="bfloat16", compute=compute, **(train or {}))
    video = recipe.video.model_copy(update={"frames": 49, "height": 480, "width": 720})
    lora = recipe.lora.model_copy(update={"rank": 128, "alpha": 64})
    return recipe.model_copy(update={"video": video, "lora": lora})


def gpu(gib: float, **more: Any) -> Machine:
    return Machine("a GPU", on_gpu=True, free=round(gib * GIB), **more)


def on(recipe: Recipe, machine: Machine) -> Fit:
    return choose(recipe, FACTS, machine)


@pytest.mark.parametrize(
    ("preset", "gib", "checkpointing", "compiles", "base_weights"),
    [
        ("fast", 200, "none", True, "as_is"),
        ("fast", 47, "selective", True, "as_is"),
        ("balanced", 200, "selective", False, "as_is"),
        ("small", 200, "full", False, "float8"),
    ],
)
def test_a_preset_takes_what_has_room(
    nano_base: Path, preset: str, gib: int, checkpointing: str, compiles: bool, base_weights: str
) -> None:
    fit = on(recipe_of(nano_base, preset=preset), gpu(gib))
    assert (fit.checkpointing, fit.compile, fit.base_weights) == (
        checkpointing,
        compiles,
        base_weights,
    )
    assert f'preset "{preset}"' in fit.why


def test_presets_step_down_exactly_where_memory_ends(nano_base: Path) -> None:
    fast, balanced = recipe_of(nano_base, preset="fast"), recipe_of(nano_base)
    everything, attention = on(fast, gpu(500)).needs.gib, on(balanced, gpu(500)).needs.gib
    assert on(fast, gpu(everything / 0.9 + 0.01)).checkpointing == "none"
    below = on(fast, gpu(everything / 0.9 - 0.01))
    assert below.checkpointing == "selective"
    assert f"no room for none {everything:.1f} GiB" in below.why
    assert on(balanced, gpu(attention + 0.01)).checkpointing == "selective"
    assert on(balanced, gpu(attention - 0.01)).checkpointing == "full"


def test_small_5b_needs_no_more_than_16_gib(nano_base: Path) -> None:
    assert on(recipe_of(nano_base, preset="small"), gpu(16)).needs.gib < 16


def test_on_a_cpu_memory_is_spent_before_time_and_nothing_is_compiled_unasked(
    nano_base: Path,
) -> None:
    cpu = Machine("this CPU", on_gpu=False, free=500 * GIB)
    for preset in ("fast", "balanced"):
        fit = on(recipe_of(nano_base, preset=preset), cpu)
        assert (fit.checkpointing, fit.compile) == ("none", False)
    assert on(recipe_of(nano_base, compile=True), cpu).compile


def test_what_is_written_down_wins(nano_base: Path) -> None:
    asked = {
        "checkpointing": "full",
        "compile": False,
        "base_weights": "int8",
        "attention": "math",
        "prefetch": 7,
    }
    fit = on(recipe_of(nano_base, preset="fast", **asked), gpu(500))
    assert {name: getattr(fit, name) for name in asked} == asked
    assert "the recipe says so" in fit.why
    assert "the base is stored in int8" in fit.why
    assert fit.event()["needs_gib"] == pytest.approx(fit.needs.gib, abs=1e-3)


@pytest.mark.parametrize(
    ("compute", "train", "gib"),
    [
        ({"checkpointing": "none"}, {}, 24),
        ({"preset": "fast", "checkpointing": "none"}, {"global_batch": 8, "micro_batch": 8}, 24),
        ({"preset": "balanced"}, {}, 18),
        ({"preset": "balanced"}, {"global_batch": 4, "micro_batch": 4}, 18),
        ({"preset": "small"}, {"global_batch": 8, "micro_batch": 8}, 17),
    ],
)
def test_what_cannot_fit_is_refused_and_the_advice_fits(
    nano_base: Path, compute: dict[str, Any], train: dict[str, Any], gib: float
) -> None:
    with pytest.raises(ConfigError) as refused:
        on(recipe_of(nano_base, train=train, **compute), gpu(gib))
    sentence = str(refused.value)
    assert re.search(
        r"takes [\d.]+ GiB at 49x480x720 and micro-batch \d, of which a GPU has", sentence
    )
    advice = dict(re.findall(r'(\w+) = "?([\w.]+)"?', sentence.split("; use ")[1]))
    assert advice
    train = train | {name: int(value) for name, value in advice.items() if name == "micro_batch"}
    settings = {name: value for name, value in advice.items() if name != "micro_batch"}
    assert on(recipe_of(nano_base, train=train, **{**compute, **settings}), gpu(gib))


def test_nothing_is_advised_where_nothing_helps(nano_base: Path) -> None:
    with pytest.raises(ConfigError, match="no setting makes it fit"):
        on(recipe_of(nano_base, preset="small"), gpu(4))


def test_compiling_without_a_compiler_is_refused_when_asked_for_and_left_out_when_not(
    nano_base: Path,
) -> None:
    lacking = gpu(500, can_compile=False)
    assert not on(recipe_of(nano_base, preset="fast"), lacking).compile
    with pytest.raises(ConfigError, match=r"compute\.compile = true needs triton"):
        on(recipe_of(nano_base, compile=True), lacking)


@pytest.mark.parametrize("base_weights", ["as_is", "float8", "int8"])
def test_the_estimate_of_a_stored_base_is_what_it_takes(nano_base: Path, base_weights: Any) -> None:
    model = new_model(nano_base, dtype="bfloat16", base_weights=base_weights)
    parts = [tensor for name, tensor in model.transformer.named_parameters() if "lora" not in name]
    parts += [part.scale for part in model.transformer.modules() if isinstance(part, StoredLinear)]
    found = sum(tensor.nbytes for tensor in parts)
    wanted = base_bytes(read_facts(nano_base), base_weights, Precision.of("bfloat16", on_gpu=True))
    assert found == pytest.approx(wanted, rel=1e-3)


def test_the_trainer_says_what_it_chose_and_does_it(new_run: NewRun) -> None:
    root = new_run(compute={"preset": "small"}, dtype="bfloat16")
    trainer = open_trainer(root)
    (event,) = [event for event in history(RunFolder(root).events) if event["kind"] == "fit"]
    assert {name: event[name] for name in ("checkpointing", "base_weights", "prefetch")} == {
        "checkpointing": "full",
        "base_weights": "float8",
        "prefetch": 2,
    }
    assert "this CPU" in event["why"]
    assert any(isinstance(part, StoredLinear) for part in trainer.transformer.modules())
    assert trainer.transformer.is_gradient_checkpointing


def test_an_attention_that_this_machine_has_not_is_refused_before_the_base_is_loaded(
    new_run: NewRun,
) -> None:
    root = new_run(compute={"attention": "cudnn"})
    (Path(RunFolder(root).read_spec().base_folder) / "transformer").is_dir()
    with pytest.raises(ConfigError, match=r'attention = "cudnn" cannot run on this CPU.*"auto"'):
        open_trainer(root)
    for kernel in ("flash", "math"):
        assert open_trainer(new_run(compute={"attention": kernel})).fit.attention == kernel


def test_processes_on_one_cpu_share_its_memory() -> None:
    one, four = (probe(torch.device("cpu"), processes=count) for count in (1, 4))
    assert 0 < four.free < one.free / 2
    assert not one.on_gpu


def test_a_base_in_8_bits_is_trained_exported_and_verified_by_two_processes(
    new_run: NewRun, trainers: Forks
) -> None:
    root = new_run(compute={"preset": "small"}, dtype="bfloat16", processes=2, steps=2)
    start(trainers, TRAINER, str(root), processes=2, cwd=root).succeed()
    card = read_card(RunFolder(root).adapter_file)
    assert card is not None
    assert card.base_weights == "float8"
