"""Adapter files written by hand for the toy family, and what they must do to its weights: numpy."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from diffusers import CogVideoXTransformer3DModel
from peft.tuners.lora import LoraLayer
from safetensors.numpy import load_file, save_file
from torch import Tensor

from cogvx.inference.mix import AdapterMix
from cogvx.inference.pipelines import Pipeline, load_pipeline
from cogvx.variants import DType, ImageScale, read_facts

ATTENTION = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0")
QUERIES = ("attn1.to_q",)
WIDER = (*ATTENTION, "ff.net.0.proj", "ff.net.2", "norm1.linear")
LAYERS = 2


@dataclass(frozen=True)
class Toy:
    """A file to write: random matrices for these layers of every block."""

    rank: int = 4
    alpha: float = 4
    seed: int = 0
    targets: tuple[str, ...] = ATTENTION
    size: float = 0.1
    ranks: Mapping[str, int] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)


def write(path: Path, toy: Toy, base: Path) -> Path:
    """Names, shapes and metadata as diffusers documents them; nothing of ours is used."""
    weights = load_file(base / "transformer" / "diffusion_pytorch_model.safetensors")
    draw = np.random.default_rng(toy.seed)
    tensors = {}
    for block in range(LAYERS):
        for target in toy.targets:
            module = f"transformer_blocks.{block}.{target}"
            outputs, inputs = weights[f"{module}.weight"].shape
            rank = toy.ranks.get(target, toy.rank)
            for end, shape in (("lora_A", (rank, inputs)), ("lora_B", (outputs, rank))):
                drawn = toy.size * draw.standard_normal(shape)
                tensors[f"transformer.{module}.{end}.weight"] = drawn.astype(np.float32)
    told = {"r": toy.rank, "lora_alpha": toy.alpha, "target_modules": list(toy.targets)}
    told["rank_pattern"] = dict(toy.ranks)  # diffusers 0.36 asks for it
    prefixed = {f"transformer.{key}": value for key, value in told.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(prefixed), **toy.metadata}
    save_file(tensors, path, metadata)
    return path


def without_metadata(source: Path, path: Path) -> Path:
    """The file as the training examples of this field write it: alpha is lost."""
    save_file(load_file(source), path, {"format": "pt"})
    return path


def deltas(path: Path, alpha: float) -> dict[str, np.ndarray]:
    """alpha / rank x B x A in float64, by the name of the weight that it is added to."""
    tensors = {name: each.astype(np.float64) for name, each in load_file(path).items()}
    found = {}
    for name, a_ri in tensors.items():
        if name.endswith(".lora_A.weight"):
            module = name.removeprefix("transformer.").removesuffix(".lora_A.weight")
            b_or = tensors[name.replace("lora_A", "lora_B")]
            found[f"{module}.weight"] = alpha / len(a_ri) * b_or @ a_ri
    return found


def weights_of(model: CogVideoXTransformer3DModel) -> dict[str, np.ndarray]:
    """What a transformer multiplies with, LoRA layers added to what they stand beside: float64.

    Ours and diffusers' own: a layer that is merged has its adapters in its weight.
    """
    found = {}
    lora = {name: part for name, part in model.named_modules() if isinstance(part, LoraLayer)}
    for name, parameter in model.named_parameters():
        if ".lora_" not in name:
            found[name.replace(".base_layer.", ".")] = parameter.detach().double().numpy()
    for name, layer in lora.items():
        for key in layer.active_adapters:
            if key in layer.lora_A and not (layer.merged or layer.disable_adapters):
                a_ri = layer.lora_A[key].weight.detach().double().numpy()
                b_or = layer.lora_B[key].weight.detach().double().numpy()
                found[f"{name}.weight"] = found[f"{name}.weight"] + layer.scaling[key] * b_or @ a_ri
    return found


def held(model: CogVideoXTransformer3DModel) -> int:
    """How many adapters take memory beside a model's weights."""
    layers = [part for part in model.modules() if isinstance(part, LoraLayer)]
    return len({key for layer in layers for key in layer.lora_A})


def furthest(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> float:
    """The largest difference of two sets of weights."""
    assert found.keys() == wanted.keys()
    return max(float(abs(found[name] - wanted[name]).max()) for name in wanted)


def bits(model: CogVideoXTransformer3DModel) -> dict[str, Tensor]:
    """Copies of everything in a model."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same_bits(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Whether two models are one, signs of zeros included."""
    return first.keys() == second.keys() and all(
        first[name].view(torch.uint8).equal(second[name].view(torch.uint8)) for name in first
    )


def kinds(model: torch.nn.Module) -> list[tuple[str, int]]:
    """The very modules of a model, by name."""
    return [(name, id(part)) for name, part in model.named_modules()]


def open_mix(
    base: Path,
    *,
    dtype: DType = "float32",
    fingerprint: str | None = None,
    image_scale: ImageScale | None = None,
) -> tuple[Pipeline, AdapterMix]:
    """A pipeline over a toy base and the mix of its adapters."""
    facts = read_facts(base)
    pipeline = load_pipeline(base, facts, dtype=dtype, device="cpu", image_scale=image_scale)
    mix = AdapterMix(pipeline, facts=facts, fingerprint=fingerprint, image_scale=image_scale)
    return pipeline, mix


@torch.no_grad()
def predict(pipeline: Pipeline, base: Path) -> Tensor:
    """One prediction of a text-to-video toy with rotary positions, from fixed noise."""
    facts = read_facts(base)
    generator = torch.Generator().manual_seed(0)
    model = pipeline.transformer

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(model.dtype)

    angles = torch.randn((2 * 4, facts.head_dim), generator=generator)
    predicted: Tensor = model(
        hidden_states=draw(1, 2, facts.in_channels, 4, 4),
        encoder_hidden_states=draw(1, facts.text_tokens, facts.text_dim),
        timestep=torch.tensor([500]),
        image_rotary_emb=(angles.cos(), angles.sin()),
        return_dict=False,
    )[0]
    return predicted


def files_of(folder: Path, base: Path, toys: Iterable[tuple[str, Toy]]) -> dict[str, Path]:
    """Files by their name."""
    return {name: write(folder / f"{name}.safetensors", toy, base) for name, toy in toys}
