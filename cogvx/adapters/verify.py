"""Proof that an adapter file is the trained adapter: reloaded by plain diffusers and compared."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import CogVideoXPipeline, CogVideoXTransformer3DModel
from peft.tuners.lora import LoraLayer
from torch import Tensor

from cogvx.adapters.container import read_header
from cogvx.adapters.layout import LORA_A
from cogvx.adapters.measure import Gap, gap_between, size_of
from cogvx.adapters.weights import LoraPair
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

# Largest difference of what is added to a layer's weight, relative to what was trained there, when
# both are cast: a last bit of float32 turns the rounding of one number in thousands.
_LAYER_LIMIT = {torch.float32: 1e-5, torch.float16: 1e-4, torch.bfloat16: 1e-4}


@dataclass(frozen=True)
class ExportCheck:
    """What the reload showed.

    `modules` had an adapter in both; `layer_error` is the norm of what the file adds to a layer's
    weight less what the trained adapter adds, cast to the same precision, relative to the latter
    and in the layer where it is largest, 0 when they are one; `max_error` is the largest difference
    of the outputs relative to the largest output; `strength_ratio` is the norm of all that the file
    adds over the norm of all that the trained adapter adds as it is, so it tells what the cast
    costs; `effect` is how much the adapter changes the base's output, relative to it.
    """

    modules: int
    layer_error: float
    max_error: float
    strength_ratio: float
    effect: float

    @property
    def text(self) -> str:
        """For a person, in a line."""
        return (
            f"the adapter file, reloaded by diffusers, acts at {self.strength_ratio:.6f} times the "
            f"trained strength on {self.modules} linear layers; what it adds to one differs by "
            f"{self.layer_error:.1e} at most, its output by {self.max_error:.1e}, and the adapter "
            f"moves the base's by {self.effect:.2%}"
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

    What is added to the weights is compared layer by layer, since in half precision the rounding of
    an output may be as large as what a young adapter adds to it. The trained matrices are cast for
    that as the loader cast the file's, so that a wrong sign or layer shows in every precision and
    however little was learned. Outputs are compared for what weights do not show, such as another
    base. A base that was stored in 8 bits is compared with one stored in the same way, which is
    what the adapter was trained on.

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
    gaps, ratio = _compared(_lora_layers(transformer), _lora_layers(fresh))
    check = ExportCheck(
        modules=modules,
        layer_error=float(torch.tensor([gap.share for gap in gaps.values()]).max()),
        max_error=_max_error(loaded, trained),
        strength_ratio=ratio,
        effect=float((trained - base_output).norm() / base_output.norm()),
    )
    _judge(check, gaps, file=adapter_file, dtype=dtype)
    return check


@contextmanager
def _aside(transformer: CogVideoXTransformer3DModel) -> Iterator[None]:
    """Keep a transformer in main memory for a while."""
    device = transformer.device
    try:
        transformer.to("cpu")
        yield
    finally:
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


def _compared(
    trained: Mapping[str, LoraLayer], loaded: Mapping[str, LoraLayer]
) -> tuple[dict[str, Gap], float]:
    """How far apart both are in each layer, once cast alike, and the ratio of their norms as is."""
    gaps, was = {}, 0.0
    for name, layer in loaded.items():
        exact, found = _pair(trained[name]), _pair(layer)
        cast = layer.lora_A[layer.active_adapters[0]].weight.dtype
        rounded = LoraPair(exact.a_ri.to(cast).float(), exact.b_or.to(cast).float())
        gaps[name] = gap_between(rounded, found)
        was = math.hypot(was, size_of(exact.a_ri, exact.b_or).norm)
    now = math.hypot(*(gap.second for gap in gaps.values()))
    return gaps, now / max(was, 1e-30)


def _pair(layer: LoraLayer) -> LoraPair:
    """What the layer's one adapter adds, the factor that peft applies multiplied into B."""
    (name,) = layer.active_adapters
    a_ri, b_or = (
        part[name].weight.detach().to("cpu", torch.float32) for part in (layer.lora_A, layer.lora_B)
    )
    return LoraPair(a_ri, b_or * layer.scaling[name])


def _max_error(loaded: Tensor, trained: Tensor) -> float:
    return float((loaded - trained).abs().max() / trained.abs().max())


def _judge(check: ExportCheck, gaps: Mapping[str, Gap], *, file: Path, dtype: torch.dtype) -> None:
    problems = []
    # Written so that a NaN fails.
    other = [name for name, gap in gaps.items() if not gap.share <= _LAYER_LIMIT[dtype]]
    if other:
        problems.append(
            f"it adds something else to {len(other)} of {check.modules} layers, such as "
            f"{other[0]}: off by {gaps[other[0]].share:.1e} of {_LAYER_LIMIT[dtype]:.0e}"
        )
    if not check.max_error <= _ERROR_LIMIT[dtype]:
        problems.append(f"its output differs by {check.max_error:.2e} of {_ERROR_LIMIT[dtype]:.0e}")
    if not abs(check.strength_ratio - 1) <= _STRENGTH_LIMIT[dtype]:
        problems.append(f"it acts at {check.strength_ratio:.4f} times the trained strength")
    if problems:
        raise IntegrityError(f"{file} is not the trained adapter: " + "; ".join(problems))
