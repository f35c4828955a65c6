"""How strong an adapter acts, whoever loads it: measured on what each linear layer computes.

The published account of where alpha is lost, line by line, against diffusers and peft themselves;
then files of this project and files that it converted, which lose nothing anywhere. What an adapter
should add is `alpha / rank * B @ A` in float64 by numpy, and layers are asked, not their settings.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from diffusers import CogVideoXPipeline, CogVideoXTransformer3DModel
from diffusers.training_utils import _collate_lora_metadata
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from cogvx.adapters.card import ADAPTER_FILE
from cogvx.adapters.export import export_adapter
from cogvx.adapters.inspect import describe
from cogvx.model.lora import lora_state
from tests.adapters.toys import toy_card, trained
from tests.fixtures.family import MEMBERS, BaseOf, pipeline_of

RANK = 8
WITHIN = 1e-6  # of the largest number that the adapter adds to a layer
MEMBER = MEMBERS[1]  # 5b: two blocks, 32 wide

Deltas = Mapping[str, np.ndarray]


@pytest.fixture(scope="module")
def base(base_of: BaseOf) -> Path:
    return base_of(MEMBER)


@pytest.fixture
def pipeline(base: Path) -> Iterator[CogVideoXPipeline]:
    """diffusers' pipeline over the toy base in float64, where what a layer adds can be seen."""
    found = pipeline_of(base, MEMBER)
    found.transformer.to(torch.float64)
    yield found
    found.unload_lora_weights()


def product(a_ri: torch.Tensor, b_or: torch.Tensor, scale: float) -> np.ndarray:
    return scale * (b_or.double().numpy() @ a_ri.double().numpy())


def deltas_of(raw: Mapping[str, torch.Tensor], scale: float) -> Deltas:
    """What tensors under diffusers' names, without a prefix, add at a scale."""
    ends = (".lora_A.weight", ".lora_B.weight")
    modules = {name.removesuffix(ends[0]) for name in raw if name.endswith(ends[0])}
    return {
        name: product(raw[name + ends[0]], raw[name + ends[1]], scale) for name in sorted(modules)
    }


@torch.no_grad()
def added(transformer: CogVideoXTransformer3DModel, base: Path) -> Deltas:
    """What every linear layer computes for the identity, less what the base's computes."""
    plain = CogVideoXTransformer3DModel.from_pretrained(base / "transformer").to(torch.float64)
    found = {}
    for name, layer in plain.named_modules():
        if isinstance(layer, nn.Linear):
            eye = torch.eye(layer.in_features, dtype=torch.float64)
            now = transformer.get_submodule(name)(eye)
            found[name] = (now - layer(eye)).T.numpy()
    return found


def assert_adds(
    transformer: CogVideoXTransformer3DModel, base: Path, wanted: Deltas, times: float = 1.0
) -> None:
    """Every layer adds what is wanted, and a layer of which nothing is wanted adds nothing."""
    found = added(transformer, base)
    assert wanted.keys() <= found.keys()
    for name, delta in found.items():
        if name not in wanted:
            assert not delta.any(), name
            continue
        error = np.abs(delta - times * wanted[name]).max()
        assert error <= WITHIN * np.abs(times * wanted[name]).max(), (name, error)


class Trained:
    """An adapter as it was trained, and the files that programs write of it."""

    def __init__(self, base: Path, *, rank: int, alpha: int) -> None:
        self.transformer = trained(base, rank=rank, alpha=alpha)
        self.raw = lora_state(self.transformer)
        self.scale = alpha / rank
        self.rank, self.alpha = rank, alpha
        self.deltas = deltas_of(self.raw, self.scale)

    def by_diffusers(self, folder: Path, *, metadata: bool) -> Path:
        """As the training examples save it, with metadata or, like most of them, without."""
        CogVideoXPipeline.save_lora_weights(
            folder,
            transformer_lora_layers=peft.get_peft_model_state_dict(self.transformer),
            **(_collate_lora_metadata({"transformer": self.transformer}) if metadata else {}),
        )
        return folder / ADAPTER_FILE

    def by_us(self, folder: Path, *, metadata: bool = True) -> Path:
        """As this project exports it; without metadata as an old loader sees it."""
        file = export_adapter(
            self.transformer, folder, card=toy_card(rank=self.rank, alpha=self.alpha)
        )
        if not metadata:
            save_file(load_file(file), file)
        return file


@pytest.fixture(scope="module")
def half(base: Path) -> Trained:
    return Trained(base, rank=RANK, alpha=4)


@pytest.fixture(scope="module")
def odd(base: Path) -> Trained:
    """A ratio that no binary fraction is."""
    return Trained(base, rank=RANK, alpha=3)


def adapter_of(which: int, half: Trained, odd: Trained) -> Trained:
    return {4: half, 3: odd}[which]


# --- what diffusers makes of other programs' files -----------------------------------------------


@pytest.mark.parametrize("alpha", [4, 3])
@pytest.mark.parametrize(
    ("metadata", "then_set", "scale_of"),
    [
        (False, False, lambda _: 1.0),
        (False, True, lambda ratio: ratio),
        (True, False, lambda ratio: ratio),
        (True, True, lambda ratio: ratio * ratio),
    ],
    ids=["bare", "bare, set", "metadata", "metadata, set"],
)
def test_an_unbaked_file_acts_as_the_table_says(
    tmp_path: Path,
    base: Path,
    pipeline: CogVideoXPipeline,
    half: Trained,
    odd: Trained,
    *,
    alpha: int,
    metadata: bool,
    then_set: bool,
    scale_of: Callable[[float], float],
) -> None:
    adapter = adapter_of(alpha, half, odd)
    file = adapter.by_diffusers(tmp_path, metadata=metadata)
    pipeline.load_lora_weights(tmp_path, weight_name=file.name, adapter_name="it")
    if then_set:
        pipeline.set_adapters(["it"], [adapter.scale])
    assert_adds(
        pipeline.transformer, base, deltas_of(adapter.raw, 1.0), times=scale_of(adapter.scale)
    )
    # ... and what we say of a file before it is loaded is what diffusers does with it
    assert describe(file).strength == (adapter.scale if metadata else 1.0)


def test_the_reference_trainers_defaults_serve_at_twice_the_trained_strength(
    tmp_path: Path, base: Path, pipeline: CogVideoXPipeline, half: Trained
) -> None:
    half.by_diffusers(tmp_path, metadata=False)
    pipeline.load_lora_weights(tmp_path)
    pipeline.fuse_lora(lora_scale=1.0)
    assert_adds(pipeline.transformer, base, half.deltas, times=2.0)


def test_one_over_the_rank_serves_at_almost_nothing(
    tmp_path: Path, base: Path, pipeline: CogVideoXPipeline, half: Trained
) -> None:
    half.by_diffusers(tmp_path, metadata=False)
    pipeline.load_lora_weights(tmp_path)
    pipeline.fuse_lora(lora_scale=1 / RANK)
    assert_adds(pipeline.transformer, base, half.deltas, times=2 / RANK)


def test_alpha_as_a_tensor_is_refused_by_diffusers(
    tmp_path: Path, pipeline: CogVideoXPipeline, half: Trained
) -> None:
    file = half.by_diffusers(tmp_path, metadata=False)
    module = "transformer.transformer_blocks.0.attn1.to_q"
    save_file({**load_file(file), f"{module}.alpha": torch.tensor(4.0)}, file)
    with pytest.raises(ValueError, match="Invalid LoRA checkpoint"):
        pipeline.load_lora_weights(tmp_path)


def test_a_trainers_own_key_for_alpha_is_ignored_by_diffusers(
    tmp_path: Path, base: Path, pipeline: CogVideoXPipeline, half: Trained
) -> None:
    file = half.by_diffusers(tmp_path, metadata=False)
    told = json.dumps({"r": RANK, "lora_alpha": half.alpha, "target_modules": ["to_q"]})
    save_file(load_file(file), file, metadata={"format": "pt", "lora_config": told})
    pipeline.load_lora_weights(tmp_path)
    assert_adds(pipeline.transformer, base, half.deltas, times=2.0)
    assert describe(file).strength == 1.0


def test_a_field_that_the_loaders_peft_does_not_know_is_an_error_there(
    tmp_path: Path, pipeline: CogVideoXPipeline, half: Trained
) -> None:
    file = half.by_diffusers(tmp_path, metadata=True)
    with safe_open(file, framework="pt") as opened:
        told = json.loads(opened.metadata()["lora_adapter_metadata"])
    told["transformer.field_of_tomorrow"] = 1
    save_file(load_file(file), file, metadata={"lora_adapter_metadata": json.dumps(told)})
    with pytest.raises(TypeError, match="LoraConfig"):
        pipeline.load_lora_weights(tmp_path)


def test_our_metadata_has_only_fields_that_every_peft_knows(tmp_path: Path, half: Trained) -> None:
    with safe_open(half.by_us(tmp_path), framework="pt") as opened:
        told = json.loads(opened.metadata()["lora_adapter_metadata"])
    assert told.keys() == {
        "transformer.r",
        "transformer.lora_alpha",
        "transformer.rank_pattern",
        "transformer.target_modules",
    }
    assert told["transformer.r"] == told["transformer.lora_alpha"] == RANK


def test_names_without_the_prefix_change_nothing_and_only_warn(
    tmp_path: Path,
    base: Path,
    pipeline: CogVideoXPipeline,
    half: Trained,
    caplog: pytest.LogCaptureFixture,
) -> None:
    file = half.by_us(tmp_path)
    save_file(unprefixed(file), file)
    logger = logging.getLogger("diffusers")
    logger.addHandler(caplog.handler)
    try:
        pipeline.load_lora_weights(tmp_path)
    finally:
        logger.removeHandler(caplog.handler)
    assert "No LoRA keys associated to" in caplog.text
    assert_adds(pipeline.transformer, base, {})
    assert describe(file).strength is None  # and we say so
    # ... the way that works
    pipeline.transformer.load_lora_adapter(tmp_path, prefix=None, use_safetensors=True)
    assert_adds(pipeline.transformer, base, half.deltas)


def test_the_model_cards_own_list_of_names_cannot_be_loaded(
    tmp_path: Path, pipeline: CogVideoXPipeline, half: Trained
) -> None:
    half.by_us(tmp_path)
    with pytest.raises(TypeError, match="unhashable"):
        pipeline.load_lora_weights(tmp_path, adapter_name=["it"])


# --- our file, whoever loads it ------------------------------------------------------------------


def unprefixed(file: Path) -> dict[str, torch.Tensor]:
    return {name.removeprefix("transformer."): part for name, part in load_file(file).items()}


def by_the_pipeline(pipeline: CogVideoXPipeline, file: Path) -> None:
    pipeline.load_lora_weights(file.parent, adapter_name="it")


def by_the_pipeline_from_a_dictionary(pipeline: CogVideoXPipeline, file: Path) -> None:
    pipeline.load_lora_weights(load_file(file))  # metadata cannot come along


def by_the_pipeline_then_set_to_one(pipeline: CogVideoXPipeline, file: Path) -> None:
    by_the_pipeline(pipeline, file)
    pipeline.set_adapters(["it"], [1.0])
    pipeline.set_adapters("it")


def into_the_transformer(pipeline: CogVideoXPipeline, file: Path) -> None:
    state, metadata = CogVideoXPipeline.lora_state_dict(str(file), return_lora_metadata=True)
    CogVideoXPipeline.load_lora_into_transformer(
        state, transformer=pipeline.transformer, metadata=metadata
    )


def by_the_transformer(pipeline: CogVideoXPipeline, file: Path) -> None:
    pipeline.transformer.load_lora_adapter(file.parent, weight_name=file.name)


def by_the_transformer_without_a_prefix(pipeline: CogVideoXPipeline, file: Path) -> None:
    pipeline.transformer.load_lora_adapter(unprefixed(file), prefix=None)


def by_peft(pipeline: CogVideoXPipeline, file: Path) -> None:
    """By peft alone: what the metadata says is its configuration; without any, rank is alpha."""
    with safe_open(file, framework="pt") as opened:
        text = (opened.metadata() or {}).get("lora_adapter_metadata")
    told = {"r": RANK, "lora_alpha": RANK, "target_modules": ["to_q", "to_k", "to_v", "to_out.0"]}
    if text is not None:
        told = {name.removeprefix("transformer."): item for name, item in json.loads(text).items()}
    peft.inject_adapter_in_model(peft.LoraConfig(**told), pipeline.transformer)
    result = peft.set_peft_model_state_dict(pipeline.transformer, unprefixed(file))
    assert not result.unexpected_keys


def fused_by_diffusers(pipeline: CogVideoXPipeline, file: Path) -> None:
    by_the_pipeline(pipeline, file)
    pipeline.fuse_lora(lora_scale=1.0, safe_fusing=True)


def fused_for_good(pipeline: CogVideoXPipeline, file: Path) -> None:
    fused_by_diffusers(pipeline, file)
    pipeline.unload_lora_weights()


LOADERS = [
    by_the_pipeline,
    by_the_pipeline_from_a_dictionary,
    by_the_pipeline_then_set_to_one,
    into_the_transformer,
    by_the_transformer,
    by_the_transformer_without_a_prefix,
    by_peft,
    fused_by_diffusers,
    fused_for_good,
]


@pytest.mark.parametrize("alpha", [4, 3])
@pytest.mark.parametrize("metadata", [True, False], ids=["metadata", "bare"])
@pytest.mark.parametrize("load", LOADERS)
def test_our_file_acts_at_the_trained_strength(
    tmp_path: Path,
    base: Path,
    pipeline: CogVideoXPipeline,
    half: Trained,
    odd: Trained,
    *,
    load: Callable[[CogVideoXPipeline, Path], None],
    metadata: bool,
    alpha: int,
) -> None:
    adapter = adapter_of(alpha, half, odd)
    file = adapter.by_us(tmp_path, metadata=metadata)
    load(pipeline, file)
    assert_adds(pipeline.transformer, base, adapter.deltas)


@pytest.mark.parametrize(("rank", "alpha"), [(128, 64), (128, 128), (128, 1), (64, 200)])
def test_our_file_acts_at_the_trained_strength_at_ranks_that_people_use(
    tmp_path: Path, base: Path, pipeline: CogVideoXPipeline, rank: int, alpha: int
) -> None:
    adapter = Trained(base, rank=rank, alpha=alpha)
    adapter.by_us(tmp_path)
    pipeline.load_lora_weights(tmp_path)
    assert_adds(pipeline.transformer, base, adapter.deltas)
    pipeline.unload_lora_weights()
    adapter.by_us(tmp_path, metadata=False)
    pipeline.load_lora_weights(tmp_path)
    assert_adds(pipeline.transformer, base, adapter.deltas)


def test_losing_alpha_moves_the_output_by_more_than_the_adapter_does(
    tmp_path: Path, pipeline: CogVideoXPipeline, odd: Trained
) -> None:
    """At alpha / rank = 3 / 8 a bare unbaked file is wrong by 5 / 3 of the whole effect."""

    @torch.no_grad()
    def output(transformer: CogVideoXTransformer3DModel) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        draw = torch.randn((1, 3, 4, 8, 12), generator=generator, dtype=torch.float64)
        text = torch.randn((1, 6, 12), generator=generator, dtype=torch.float64)
        rotary = tuple(torch.randn((72, 16), generator=generator) for _ in range(2))
        return transformer(
            draw, text, torch.tensor([400]), image_rotary_emb=rotary, return_dict=False
        )[0]

    bare_base = output(pipeline.transformer)
    right = output(odd.transformer.to(torch.float64))
    odd.transformer.float()
    effect = (right - bare_base).norm()
    errors = {}
    for baked, metadata in ((True, True), (True, False), (False, True), (False, False)):
        folder = tmp_path / f"{baked}{metadata}"
        (odd.by_us if baked else odd.by_diffusers)(folder, metadata=metadata)
        pipeline.load_lora_weights(folder)
        errors[baked, metadata] = float((output(pipeline.transformer) - right).norm() / effect)
        pipeline.unload_lora_weights()
    assert max(errors[True, True], errors[True, False], errors[False, True]) < WITHIN
    assert errors[False, False] > 1
