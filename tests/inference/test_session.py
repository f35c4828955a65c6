"""A session generates what plain diffusers does, and switching adapters leaves no trace."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from diffusers import CogVideoXPipeline, CogVideoXTransformer3DModel
from diffusers.training_utils import _collate_lora_metadata
from safetensors.torch import load_file, save_file

from cogvx.adapters.container import read_header
from cogvx.errors import ConfigError, IntegrityError
from cogvx.inference.request import Request, Sampling
from cogvx.inference.session import Session
from cogvx.model.load import load_transformer
from cogvx.shapes import VideoSize

FILE = "pytorch_lora_weights.safetensors"
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
REQUEST = Request(
    prompt="a large red circle moves left over a blue background",
    seed=3,
    size=VideoSize(9, 48, 48),
    fps=8,
    sampling=Sampling(steps=2, guidance=6.0, sampler="dpm"),
)


def adapt(base: Path, *, rank: int, alpha: int, seed: int) -> object:
    """A transformer that peft itself adapted, with B away from zero."""
    transformer = load_transformer(base, dtype="float32")
    transformer.add_adapter(peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=TARGETS))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in transformer.named_parameters():
        if ".lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.08
    return transformer


def save(transformer: object, folder: Path) -> Path:
    """Write an adapter as diffusers' own training examples do."""
    CogVideoXPipeline.save_lora_weights(
        folder,
        transformer_lora_layers=peft.get_peft_model_state_dict(transformer),
        **_collate_lora_metadata({"transformer": transformer}),
    )
    return folder / FILE


@pytest.fixture(scope="module")
def files(nano_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {
        "half": save(adapt(nano_base, rank=64, alpha=32, seed=1), folder / "half"),
        "plain": save(adapt(nano_base, rank=8, alpha=8, seed=2), folder / "plain"),
    }


@pytest.fixture
def session(nano_base: Path) -> Session:
    return Session.open(nano_base, dtype="float32")


def in_plain_diffusers(
    base: Path, change: Callable[[CogVideoXPipeline], None], request: Request = REQUEST
) -> np.ndarray:
    pipeline = CogVideoXPipeline.from_pretrained(base, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    change(pipeline)
    video = pipeline(
        request.prompt,
        height=request.size.height,
        width=request.size.width,
        num_frames=request.size.frames,
        num_inference_steps=request.sampling.steps,
        guidance_scale=request.sampling.guidance,
        use_dynamic_cfg=request.sampling.dynamic_guidance,
        max_sequence_length=16,
        generator=torch.Generator().manual_seed(request.seed),
        output_type="np",
    ).frames[0]
    return np.rint(video * 255).astype(np.uint8)


@pytest.mark.parametrize(
    "request_",
    [
        REQUEST,
        replace(REQUEST, sampling=Sampling(steps=4, guidance=1.0, sampler="dpm")),
        replace(REQUEST, sampling=Sampling(2, 6.0, "dpm", dynamic_guidance=True)),
        replace(REQUEST, size=VideoSize(17, 32, 64)),
    ],
)
def test_the_base_generates_what_plain_diffusers_does(
    session: Session, nano_base: Path, request_: Request
) -> None:
    ours = session.generate(request_)
    size = request_.size
    assert ours.shape == (size.frames, size.height, size.width, 3)
    assert ours.dtype == np.uint8
    assert np.array_equal(ours, in_plain_diffusers(nano_base, lambda _: None, request_))


@pytest.mark.parametrize(
    ("name", "traits", "size"),
    [
        ("CogVideoX-2b", {"use_rotary_positional_embeddings": False}, VideoSize(9, 48, 48)),
        ("CogVideoX1.5-5B", {"patch_size_t": 2}, VideoSize(17, 32, 48)),
    ],
)
def test_other_members_of_the_family_generate_what_plain_diffusers_does(
    nano_base: Path, tmp_path: Path, name: str, traits: dict[str, object], size: VideoSize
) -> None:
    base = tmp_path / "base"
    shutil.copytree(nano_base, base)
    config = {**load_transformer(nano_base, dtype="float32").config, "num_layers": 1, **traits}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CogVideoXTransformer3DModel.from_config(config).save_pretrained(base / "transformer")
    other = Session.open(base, dtype="float32")
    assert other.facts.variant.name == name
    request = replace(REQUEST, size=size)
    ours = other.generate(request)
    assert ours.shape == (size.frames, size.height, size.width, 3)
    assert np.array_equal(ours, in_plain_diffusers(base, lambda _: None, request))


def test_a_request_is_repeatable_and_everything_in_it_matters(session: Session) -> None:
    before = torch.random.get_rng_state()
    first = session.generate(REQUEST)
    changes = [
        replace(REQUEST, seed=4),
        replace(REQUEST, prompt="a small green square rests"),
        replace(REQUEST, negative_prompt="a red circle"),
        replace(REQUEST, sampling=replace(REQUEST.sampling, sampler="ddim")),
        replace(REQUEST, sampling=replace(REQUEST.sampling, guidance=2.0)),
    ]
    for change in changes:
        assert not np.array_equal(session.generate(change), first)
    assert np.array_equal(session.generate(REQUEST), first)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_an_adapter_acts_as_the_model_it_was_saved_from(
    session: Session, nano_base: Path, files: dict[str, Path]
) -> None:
    attached = session.attach("style.v1", files["half"])
    assert (attached.name, attached.modules, attached.rank) == ("style.v1", 6 * 4, 64)
    session.use({"style.v1": 1.0})
    ours = session.generate(REQUEST)

    def adapted(pipeline: CogVideoXPipeline) -> None:
        pipeline.register_modules(transformer=adapt(nano_base, rank=64, alpha=32, seed=1))

    theirs = in_plain_diffusers(nano_base, adapted)
    assert not np.array_equal(ours, in_plain_diffusers(nano_base, lambda _: None))
    assert abs(ours.astype(int) - theirs).max() <= 1


def test_without_weights_the_base_is_back_bit_for_bit(
    session: Session, files: dict[str, Path]
) -> None:
    base = session.generate(REQUEST)
    session.attach("one", files["half"])
    assert np.array_equal(session.generate(REQUEST), base), "attaching alone changes nothing"
    session.use({"one": 1.0})
    assert not np.array_equal(session.generate(REQUEST), base)
    for nothing in ({}, {"one": 0.0}):
        session.use(nothing)
        assert np.array_equal(session.generate(REQUEST), base)


def test_weights_are_absolute(session: Session, files: dict[str, Path]) -> None:
    session.attach("one", files["half"])
    session.use({"one": 0.5})
    half = session.generate(REQUEST)
    session.use({"one": 1.0})
    whole = session.generate(REQUEST)
    for _ in range(2):
        session.use({"one": 0.5})
    assert np.array_equal(session.generate(REQUEST), half)
    assert not np.array_equal(half, whole)
    scales = {
        float(scale)
        for module in session.transformer.modules()
        for scale in getattr(module, "scaling", {}).values()
    }
    assert scales == {0.5}, "what was trained into alpha is in the matrices"


def test_adapters_come_and_go_without_a_trace(session: Session, files: dict[str, Path]) -> None:
    base = session.generate(REQUEST)
    session.attach("one", files["half"])
    session.use({"one": 1.0})
    one = session.generate(REQUEST)
    session.attach("two", files["plain"])
    assert np.array_equal(session.generate(REQUEST), one), "a second file leaves the first acting"
    session.use({"one": 1.0, "two": 0.7})
    both = session.generate(REQUEST)
    assert not np.array_equal(both, one)
    session.detach("two")
    assert np.array_equal(session.generate(REQUEST), one)
    session.detach("one")
    assert np.array_equal(session.generate(REQUEST), base)
    assert not any(
        isinstance(part, peft.tuners.lora.LoraLayer) for part in session.transformer.modules()
    )
    session.attach("one", files["half"])
    session.use({"one": 1.0})
    assert np.array_equal(session.generate(REQUEST), one)


def test_two_adapters_add_up(session: Session, nano_base: Path, files: dict[str, Path]) -> None:
    session.attach("one", files["half"])
    session.attach("two", files["plain"])
    session.use({"two": 0.7, "one": 0.4})
    merged = load_transformer(nano_base, dtype="float32")
    for name, scale in (("half", 0.4 * 32 / 64), ("plain", 0.7)):
        tensors = load_file(files[name])
        for key in (key for key in tensors if ".lora_A." in key):
            layer = merged.get_submodule(
                key.removeprefix("transformer.").removesuffix(".lora_A.weight")
            )
            layer.weight.data += scale * tensors[key.replace("lora_A", "lora_B")] @ tensors[key]
    theirs = in_plain_diffusers(nano_base, lambda pipe: pipe.register_modules(transformer=merged))
    assert abs(session.generate(REQUEST).astype(int) - theirs).max() <= 1


def broken(source: Path, folder: Path, fault: str) -> Path:
    """A copy of an adapter file with one fault."""
    path = folder / FILE
    tensors = load_file(source)
    last = max(tensors)
    first_b = next(name for name in tensors if ".lora_B." in name)
    if fault == "half of it for a deeper model":
        tensors = {
            name.replace("blocks.5", "blocks.50"): tensor for name, tensor in tensors.items()
        }
    elif fault == "names of another loader":
        tensors = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    elif fault == "a wider model":
        tensors = {name: torch.cat([tensor] * 2, dim=-1) for name, tensor in tensors.items()}
    elif fault == "one of a pair":
        del tensors[first_b]
    elif fault == "no tensors of an adapter":
        tensors = {"weight": tensors[last]}
    save_file(tensors, path, read_header(source).metadata)
    if fault == "cut short":
        path.write_bytes(path.read_bytes()[:5000])
    return path


@pytest.mark.parametrize(
    ("fault", "sentence", "beside_another"),
    [
        ("half of it for a deeper model", "24 adapted layers, of which 20 exist", False),
        ("half of it for a deeper model", "24 adapted layers, of which 20 exist", True),
        ("names of another loader", "not in diffusers' form.*convert it first", False),
        ("a wider model", "does not fit the base model", False),
        ("a wider model", "does not fit the base model", True),
        ("one of a pair", "holds one of two matrices of transformer.transformer_blocks.0", True),
        ("no tensors of an adapter", "not in diffusers' form", False),
        ("cut short", "is not a safetensors file", True),
    ],
)
def test_a_file_that_does_not_fit_is_refused_without_a_trace(
    session: Session,
    files: dict[str, Path],
    tmp_path: Path,
    fault: str,
    sentence: str,
    beside_another: bool,
) -> None:
    if beside_another:
        session.attach("good", files["half"])
        session.use({"good": 1.0})
    before = session.generate(REQUEST)
    with pytest.raises(IntegrityError, match=sentence):
        session.attach("bad", broken(files["plain"], tmp_path, fault))
    assert np.array_equal(session.generate(REQUEST), before)
    session.attach("bad", files["plain"])
    session.use({"bad": 1.0})
    assert not np.array_equal(session.generate(REQUEST), before)


def test_names_and_weights_that_mean_nothing_are_sentences(
    session: Session, files: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="there is no such adapter file"):
        session.attach("one", tmp_path / "absent.safetensors")
    session.attach("one", files["half"])
    with pytest.raises(ConfigError, match='"one" is already attached'):
        session.attach("one", files["plain"])
    with pytest.raises(
        ConfigError, match=r"(?s)two = 1.0 is not attached.*one = nan is not finite"
    ):
        session.use({"two": 1.0, "one": float("nan")})
    with pytest.raises(ConfigError, match='no adapter "two" is attached'):
        session.detach("two")


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (
            replace(REQUEST, sampling=Sampling(30, 6.0, "dpm")),
            "sampling.steps = 30 does not divide 1000.*use 25",
        ),
        (replace(REQUEST, sampling=Sampling(0, 6.0, "dpm")), "sampling.steps = 0 .*use 1"),
        (replace(REQUEST, size=VideoSize(5, 48, 48)), "5x48x48.* not 8k . 1; use 9 frames"),
        (replace(REQUEST, size=VideoSize(9, 44, 48)), "9x44x48.* not a multiple of 8"),
    ],
)
def test_a_request_that_cannot_be_sampled_is_a_sentence(
    session: Session, request_: Request, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        session.generate(request_)


def test_pixels_that_are_not_finite_are_never_shown(session: Session) -> None:
    with torch.no_grad():
        session.transformer.proj_out.weight[0, 0] = float("inf")
    with pytest.raises(IntegrityError, match="not finite for seed 3"):
        session.generate(REQUEST)


def test_half_precision_generates_and_returns_to_the_base(
    nano_base: Path, files: dict[str, Path]
) -> None:
    session = Session.open(nano_base, dtype="bfloat16")
    base = session.generate(REQUEST)
    session.attach("one", files["half"])
    session.use({"one": 1.0})
    assert not np.array_equal(session.generate(REQUEST), base)
    session.use({})
    assert np.array_equal(session.generate(REQUEST), base)
