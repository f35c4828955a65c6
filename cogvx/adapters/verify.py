"""Proof that an adapter file is the trained adapter: reloaded by plain diffusers and compared."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import CogVideoXPipeline, CogVideoXTransformer3DModel
from peft.tuners.lora import LoraLayer
from torch import Tensor

from cogvx.adapters.container import read_header
from cogvx.adapters.layout import LORA_A
from cogvx.errors import IntegrityError
from cogvx.model.quantise import store_base, stored_weights
from cogvx.model.rotary import rotary_tables
from cogvx.shapes import VideoSize
from cogvx.variants import OFS, BaseFacts

_SEED = 20240806
_TIMESTEP = 499
_PATCHES = 4  # side of the small input, in patches

# Largest difference of outputs, relative to the largest output. A loader casts the adapter to the
# base's precision, so half precision differs by the rounding of A, B and every layer's output.
_ERROR_LIMIT = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
_STRENGTH_LIMIT = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 1e-2}


@dataclass(frozen=True)
class ExportCheck:
    """What the reload showed.

    `modules` had an adapter in both; `max_error` is the largest difference of the outputs relative
    to the largest output; `strength_ratio` is the norm of what the file adds to the weights over
    the norm of what the trained adapter adds, 1 when they act alike; `effect` is how much the
    adapter changes the base's output, relative to it.
    """

    modules: int
    max_error: float
    strength_ratio: float
    effect: float

    @property
    def text(self) -> str:
        """For a person, in a line."""
        return (
            f"the adapter file, reloaded by diffusers, acts at {self.strength_ratio:.6f} times the "
            f"trained strength on {self.modules} linear layers; its output differs by "
            f"{self.max_error:.1e}, and the adapter moves the base's by {self.effect:.2%}"
        )


@torch.no_grad()
def verify_export(
    transformer: CogVideoXTransformer3DModel,
    adapter_file: Path,
    *,
    base_folder: Path,
    facts: BaseFacts,
) -> ExportCheck:
    """Load base and file afresh with plain diffusers, and compare with the trained transformer.

    Strength is compared on weights, not on outputs: in half precision the rounding of an output
    may be as large as what a young adapter adds to it. A base that was stored in 8 bits is compared
    with one stored in the same way, which is what the adapter was trained on.

    Args:
        transformer: The trained transformer with its one adapter; left as it was.
        adapter_file: What `export_adapter` wrote.
        base_folder: The diffusers folder that `transformer` was loaded from. A second copy of its
            transformer takes the trained one's place on the device meanwhile: where training just
            fitted, two would not.
        facts: Of that base.

    Raises:
        IntegrityError: The file is not this adapter over this base; the message has the figures.
    """
    dtype, device = transformer.dtype, transformer.device
    inputs = _inputs(facts, dtype=dtype, device=device)
    fresh = CogVideoXTransformer3DModel.from_pretrained(
        base_folder, subfolder="transformer", torch_dtype=dtype, use_safetensors=True
    )
    # diffusers draws an adapter before it reads one; the caller's random state is not for that.
    with torch.random.fork_rng(devices=[]):
        _load_as_people_do(fresh.eval(), adapter_file)
    modules = _same_modules(transformer, fresh, adapter_file)
    store_base(fresh, stored_weights(transformer))
    trained = _run(transformer, inputs)
    with _aside(transformer):
        fresh.to(device)
        loaded = _run(fresh, inputs)
        fresh.disable_adapters()
        base_output = _run(fresh, inputs)
        fresh.enable_adapters()
        fresh.to("cpu")
    check = ExportCheck(
        modules=modules,
        max_error=_max_error(loaded, trained),
        strength_ratio=_delta_norm(fresh) / max(_delta_norm(transformer), 1e-30),
        effect=float((trained - base_output).norm() / base_output.norm()),
    )
    _judge(check, adapter_file, dtype)
    return check


@contextmanager
def _aside(transformer: CogVideoXTransformer3DModel) -> Iterator[None]:
    """Keep a transformer in main memory for a while."""
    device = transformer.device
    transformer.to("cpu")
    yield
    transformer.to(device)


def _load_as_people_do(fresh: CogVideoXTransformer3DModel, adapter_file: Path) -> None:
    """The steps of `CogVideoXPipeline.load_lora_weights`, without the rest of a pipeline."""
    state, metadata = CogVideoXPipeline.lora_state_dict(
        str(adapter_file.parent),
        weight_name=adapter_file.name,
        use_safetensors=True,
        local_files_only=True,
        return_lora_metadata=True,
    )
    try:
        CogVideoXPipeline.load_lora_into_transformer(state, transformer=fresh, metadata=metadata)
    except (RuntimeError, ValueError, TypeError) as error:
        # What diffusers and peft raise for other shapes, names or metadata.
        raise IntegrityError(f"{adapter_file} does not fit the base: {error}") from error


def _inputs(facts: BaseFacts, *, dtype: torch.dtype, device: torch.device) -> dict[str, object]:
    """One small random input, the same for every call; two latent frames suit both patchings."""
    native, step = facts.sample_size, facts.patch * facts.compression.spatial
    side = step * min(_PATCHES, native.height // step, native.width // step)
    size = VideoSize(facts.compression.temporal + 1, side, side)
    if facts.variant.fixed_size:
        size = native
    latent = facts.compression.latent(size)
    generator = torch.Generator("cpu").manual_seed(_SEED)
    latents_bfchw = torch.randn(
        (1, latent.frames, facts.in_channels, latent.height, latent.width), generator=generator
    )
    text_bsd = torch.randn((1, facts.text_tokens, facts.text_dim), generator=generator)
    return {
        "hidden_states": latents_bfchw.to(device, dtype),
        "encoder_hidden_states": text_bsd.to(device, dtype),
        "timestep": torch.tensor([_TIMESTEP], device=device),
        "ofs": torch.full((1,), OFS, device=device, dtype=dtype) if facts.variant.has_ofs else None,
        "image_rotary_emb": rotary_tables(facts, size, device),
        "return_dict": False,
    }


def _run(model: CogVideoXTransformer3DModel, inputs: dict[str, object]) -> Tensor:
    """The output in float32; the model's mode is put back.

    Compiled blocks run as they were written: two outputs are compared, and one size is not worth
    minutes of compiling.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.compiler.set_stance("force_eager"):
            output: Tensor = model(**inputs)[0]
    finally:
        model.train(was_training)
    return output.float()


def _lora_layers(model: CogVideoXTransformer3DModel) -> dict[str, LoraLayer]:
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def _same_modules(
    transformer: CogVideoXTransformer3DModel, fresh: CogVideoXTransformer3DModel, file: Path
) -> int:
    pairs = sum(name.endswith(LORA_A) for name in read_header(file).tensors)
    trained, loaded = _lora_layers(transformer).keys(), _lora_layers(fresh).keys()
    if trained != loaded or len(loaded) != pairs:
        raise IntegrityError(
            f"{file} has {pairs} pairs of matrices and gives an adapter to {len(loaded)} modules; "
            f"the trained transformer has {len(trained)}"
        )
    return pairs


def _delta_norm(model: CogVideoXTransformer3DModel) -> float:
    """Norm of everything that the active adapters add to the weights, as peft adds it."""
    total = 0.0
    for layer in _lora_layers(model).values():
        for name in layer.active_adapters:
            delta = layer.get_delta_weight(name)
            total += float(delta.double().square().sum())
    return math.sqrt(total)


def _max_error(loaded: Tensor, trained: Tensor) -> float:
    return float((loaded - trained).abs().max() / trained.abs().max())


def _judge(check: ExportCheck, file: Path, dtype: torch.dtype) -> None:
    problems = []
    # Written so that a NaN fails.
    if not check.max_error <= _ERROR_LIMIT[dtype]:
        problems.append(f"its output differs by {check.max_error:.2e} of {_ERROR_LIMIT[dtype]:.0e}")
    if not abs(check.strength_ratio - 1) <= _STRENGTH_LIMIT[dtype]:
        problems.append(f"it acts at {check.strength_ratio:.4f} times the trained strength")
    if problems:
        raise IntegrityError(f"{file} is not the trained adapter: " + "; ".join(problems))
