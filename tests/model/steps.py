"""One forward and backward pass of the toy model with an adapter, for comparing ways to run it."""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import CogVideoXTransformer3DModel
from torch import Tensor, nn

from cogvx.model.load import load_transformer
from cogvx.model.lora import attach_lora
from cogvx.model.quantise import store_base
from cogvx.model.rotary import rotary_tables
from cogvx.recipe_sections import BaseWeights, LoraConfig
from cogvx.shapes import VideoSize
from cogvx.variants import BaseFacts, DType, read_facts

LORA = LoraConfig(rank=4, alpha=4, allow_unusual=True)


@dataclass(frozen=True)
class Step:
    """Fixed inputs of a size."""

    frames: int = 9
    side: int = 48

    def predict(self, model: "Model") -> Tensor:
        size = VideoSize(self.frames, self.side, self.side)
        latent, dtype = model.facts.compression.latent(size), model.transformer.dtype
        shape = (1, latent.frames, model.facts.in_channels, latent.height, latent.width)
        generator = torch.Generator().manual_seed(self.frames)
        text = (1, model.facts.text_tokens, model.facts.text_dim)
        output: Tensor = model.transformer(
            hidden_states=torch.randn(shape, generator=generator).to(dtype),
            encoder_hidden_states=torch.randn(text, generator=generator).to(dtype),
            timestep=torch.tensor([500]),
            image_rotary_emb=rotary_tables(model.facts, size, "cpu"),
            return_dict=False,
        )[0]
        return output.float()


@dataclass(frozen=True)
class Model:
    """The toy transformer with an adapter that already does something."""

    transformer: CogVideoXTransformer3DModel
    parameters: tuple[nn.Parameter, ...]
    facts: BaseFacts

    def saved_bytes(self, step: Step) -> int:
        """Bytes that autograd keeps between the passes, the model's own tensors not counted."""
        own = {tensor.data_ptr() for tensor in self.transformer.state_dict().values()}
        own |= {tensor.data_ptr() for tensor in self.transformer.buffers()}
        kept: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = step.predict(self)  # alive, so that no address is used twice
        assert output.requires_grad
        return sum(kept.values())


def new_model(
    base: Path,
    *,
    dtype: DType = "float32",
    base_weights: BaseWeights = "as_is",
    layers: int = 6,
) -> Model:
    transformer = load_transformer(base, dtype=dtype)
    del transformer.transformer_blocks[layers:]
    store_base(transformer, base_weights)
    parameters = attach_lora(transformer, LORA, seed=3)
    with torch.no_grad():
        for parameter in parameters:  # B starts at zero, and then A has no gradient
            parameter.add_(0.01)
    return Model(transformer, parameters, read_facts(base))


def flat_gradients(model: Model, step: Step) -> Tensor:
    for parameter in model.parameters:
        parameter.grad = None
    torch.autograd.backward(step.predict(model).square().mean())
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters])
