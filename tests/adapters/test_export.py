"""The adapter file: what it holds, who can read it, and at what strength."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import CogVideoXPipeline, CogVideoXTransformer3DModel
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cogvx.adapters.card import ADAPTER_FILE, read_card
from cogvx.adapters.export import export_adapter
from cogvx.errors import IntegrityError
from cogvx.files import is_aside
from cogvx.model.lora import attach_lora, lora_state
from cogvx.model.rotary import rotary_tables
from cogvx.recipe_sections import DEFAULT_TARGETS, LoraConfig
from cogvx.variants import read_facts
from tests.adapters.toys import toy_card, trained

PLAIN_DIFFUSERS = """
import sys
from pathlib import Path

import torch
from diffusers import CogVideoXPipeline
from safetensors.torch import load_file, save_file

base, adapter, folder = sys.argv[1:]
pipeline = CogVideoXPipeline.from_pretrained(base, torch_dtype=torch.float32)
pipeline.load_lora_weights(adapter)
given = load_file(Path(folder) / "inputs.safetensors")
rotary = (given["cos"], given["sin"]) if "cos" in given else None
with torch.no_grad():
    output = pipeline.transformer(
        hidden_states=given["latents"],
        encoder_hidden_states=given["text"],
        timestep=given["timestep"],
        image_rotary_emb=rotary,
        return_dict=False,
    )[0]
save_file({"output": output.contiguous()}, Path(folder) / "output.safetensors")
assert not [name for name in sys.modules if name.split(".")[0] in ("cogvx", "tasks", "flows")]
"""


def small_inputs(base: Path) -> dict[str, torch.Tensor]:
    facts = read_facts(base)
    latent = facts.compression.latent(facts.sample_size)
    generator = torch.Generator().manual_seed(3)
    shape = (1, latent.frames, facts.in_channels, latent.height, latent.width)
    inputs = {
        "latents": torch.randn(shape, generator=generator),
        "text": torch.randn((1, facts.text_tokens, facts.text_dim), generator=generator),
        "timestep": torch.tensor([321]),
    }
    rotary = rotary_tables(facts, facts.sample_size, "cpu")
    return inputs if rotary is None else {**inputs, "cos": rotary[0], "sin": rotary[1]}


@torch.no_grad()
def run(model: CogVideoXTransformer3DModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    rotary = (inputs["cos"], inputs["sin"]) if "cos" in inputs else None
    return model(
        hidden_states=inputs["latents"],
        encoder_hidden_states=inputs["text"],
        timestep=inputs["timestep"],
        image_rotary_emb=rotary,
        return_dict=False,
    )[0]


def reload(base: Path, file: Path) -> CogVideoXTransformer3DModel:
    """The steps of `load_lora_weights` in plain diffusers."""
    model = CogVideoXTransformer3DModel.from_pretrained(base, subfolder="transformer")
    state, metadata = CogVideoXPipeline.lora_state_dict(str(file), return_lora_metadata=True)
    CogVideoXPipeline.load_lora_into_transformer(state, transformer=model, metadata=metadata)
    return model


def without_metadata(file: Path, folder: Path) -> Path:
    """The file as a program that knows no metadata would have written it."""
    folder.mkdir()
    save_file(load_file(file), folder / ADAPTER_FILE, metadata={"format": "pt"})
    return folder / ADAPTER_FILE


def test_plain_diffusers_in_a_process_without_this_project_gives_the_trained_output(
    nano_base: Path, tmp_path: Path
) -> None:
    transformer = trained(nano_base, rank=8, alpha=4)
    export_adapter(transformer, tmp_path / "adapter", card=toy_card())
    inputs = small_inputs(nano_base)
    save_file(inputs, tmp_path / "inputs.safetensors")
    subprocess.run(
        [sys.executable, "-c", PLAIN_DIFFUSERS, nano_base, tmp_path / "adapter", tmp_path],
        check=True,
        cwd=tmp_path,
    )
    expected = run(transformer, inputs)
    transformer.disable_adapters()
    assert not torch.allclose(run(transformer, inputs), expected, atol=1e-3)
    found = load_file(tmp_path / "output.safetensors")["output"]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("alpha", [1, 3, 4, 8, 16])
@pytest.mark.parametrize("metadata", [True, False])
def test_loads_at_the_trained_strength_with_and_without_metadata(
    nano_base: Path, tmp_path: Path, alpha: int, metadata: bool
) -> None:
    transformer = trained(nano_base, rank=8, alpha=alpha)
    file = export_adapter(transformer, tmp_path / "a", card=toy_card(alpha=alpha))
    loaded = reload(nano_base, file if metadata else without_metadata(file, tmp_path / "b"))
    layers = {name: part for name, part in loaded.named_modules() if isinstance(part, LoraLayer)}
    assert layers
    for name, layer in layers.items():
        assert list(layer.scaling.values()) == [1.0]
        trained_delta = transformer.get_submodule(name).get_delta_weight("default")
        (loaded_delta,) = [layer.get_delta_weight(adapter) for adapter in layer.active_adapters]
        torch.testing.assert_close(loaded_delta, trained_delta, atol=1e-7, rtol=1e-6)


def test_setting_the_weight_to_one_does_not_change_the_strength(
    nano_base: Path, tmp_path: Path
) -> None:
    file = export_adapter(trained(nano_base), tmp_path, card=toy_card())
    loaded, inputs = reload(nano_base, file), small_inputs(nano_base)
    before = run(loaded, inputs)
    loaded.set_adapters(loaded.active_adapters(), [1.0])
    torch.testing.assert_close(run(loaded, inputs), before, atol=0, rtol=0)


def test_holds_two_matrices_for_every_target_of_every_layer(
    nano_base: Path, tmp_path: Path
) -> None:
    transformer = trained(nano_base)
    file = export_adapter(transformer, tmp_path, card=toy_card())
    layers = transformer.config.num_layers
    names = set(load_file(file))
    assert len(names) == layers * len(DEFAULT_TARGETS) * 2
    assert names == {
        f"transformer.transformer_blocks.{layer}.attn1.{target}.lora_{matrix}.weight"
        for layer in range(layers)
        for target in DEFAULT_TARGETS
        for matrix in "AB"
    }


def test_the_same_weights_and_card_give_the_same_bytes(nano_base: Path, tmp_path: Path) -> None:
    transformer = trained(nano_base)
    first = export_adapter(transformer, tmp_path / "a", card=toy_card()).read_bytes()
    again = export_adapter(transformer, tmp_path / "a", card=toy_card()).read_bytes()
    other = export_adapter(transformer, tmp_path / "b", card=toy_card()).read_bytes()
    assert first == again == other
    assert not [path for path in tmp_path.rglob("*") if is_aside(path)]


def test_metadata_is_in_alphabetical_order_whatever_the_process(
    nano_base: Path, tmp_path: Path
) -> None:
    file = export_adapter(trained(nano_base), tmp_path, card=toy_card())
    data = file.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert list(header["__metadata__"]) == sorted(header["__metadata__"])
    assert list(header) == sorted(header)


def test_other_readers_of_safetensors_see_the_tensors_and_the_metadata(
    nano_base: Path, tmp_path: Path
) -> None:
    transformer = trained(nano_base, rank=8, alpha=4)
    file = export_adapter(transformer, tmp_path, card=toy_card())
    raw = lora_state(transformer)
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
        for name in opened.keys():  # noqa: SIM118 - not a dictionary
            factor = 0.5 if ".lora_B." in name else 1.0
            expected = raw[name.removeprefix("transformer.")] * factor
            torch.testing.assert_close(opened.get_tensor(name), expected, atol=0, rtol=0)
    assert metadata["format"] == "pt"
    assert json.loads(metadata["lora_adapter_metadata"]) == {
        "transformer.r": 8,
        "transformer.lora_alpha": 8,
        "transformer.rank_pattern": {},
        "transformer.target_modules": sorted(DEFAULT_TARGETS),
    }


def test_the_card_comes_back_as_it_went_in(nano_base: Path, tmp_path: Path) -> None:
    card = toy_card(warnings=("alpha is unusual",), base_revision="abc")
    file = export_adapter(trained(nano_base), tmp_path, card=card)
    assert read_card(file) == card
    assert read_card(without_metadata(file, tmp_path / "bare")) is None


def test_an_untrained_adapter_is_refused_unless_asked_for(nano_base: Path, tmp_path: Path) -> None:
    transformer = trained(nano_base)
    for name, parameter in transformer.named_parameters():
        if ".lora_B." in name:
            parameter.data.zero_()
    with pytest.raises(IntegrityError, match="no effect"):
        export_adapter(transformer, tmp_path, card=toy_card())
    assert export_adapter(transformer, tmp_path, card=toy_card(), allow_zero=True).is_file()


def test_a_tensor_that_is_not_finite_is_refused_by_name(nano_base: Path, tmp_path: Path) -> None:
    transformer = trained(nano_base)
    layer = transformer.transformer_blocks[1].attn1.to_k
    layer.lora_A["default"].weight.data[0, 0] = float("nan")
    with pytest.raises(IntegrityError, match=r"not finite: transformer_blocks\.1\.attn1\.to_k"):
        export_adapter(transformer, tmp_path, card=toy_card())
    assert not (tmp_path / ADAPTER_FILE).exists()


def test_a_card_that_does_not_fit_the_adapter_is_refused(nano_base: Path, tmp_path: Path) -> None:
    transformer = trained(nano_base, rank=8)
    with pytest.raises(IntegrityError, match="not of rank 16"):
        export_adapter(transformer, tmp_path, card=toy_card(rank=16))
    with pytest.raises(IntegrityError, match="belong to no target"):
        export_adapter(transformer, tmp_path, card=toy_card(targets=("to_q",)))
    with pytest.raises(IntegrityError, match="are missing"):
        export_adapter(transformer, tmp_path, card=toy_card(targets=(*DEFAULT_TARGETS, "ff.net.2")))


@pytest.mark.parametrize(("layers", "tensors"), [(30, 240), (42, 336)])
def test_the_published_depths_give_the_published_numbers_of_tensors(
    tmp_path: Path, layers: int, tensors: int
) -> None:
    config = {
        "num_attention_heads": 1,
        "attention_head_dim": 8,
        "num_layers": layers,
        "text_embed_dim": 8,
        "time_embed_dim": 8,
        "max_text_seq_length": 4,
        "use_rotary_positional_embeddings": True,
    }
    transformer = CogVideoXTransformer3DModel(**config)
    attach_lora(transformer, LoraConfig(rank=2, alpha=2, allow_unusual=True), seed=0)
    card = toy_card(rank=2, alpha=2)
    file = export_adapter(transformer, tmp_path, card=card, allow_zero=True)
    assert len(load_file(file)) == tensors
