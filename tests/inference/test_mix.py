"""A mix refuses what must not act, survives what fails half-way, and rounds once."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLCogVideoX
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cogvx.adapters.bake import bake
from cogvx.adapters.export import export_adapter
from cogvx.adapters.shares import Share
from cogvx.errors import CogvxError, ConfigError, IntegrityError
from cogvx.inference.mix import AdapterMix
from cogvx.inference.pipelines import Pipeline
from cogvx.inference.request import Request, Sampling
from cogvx.inference.session import Session
from cogvx.model.load import load_transformer
from cogvx.model.quantise import store_base, stored_weights
from cogvx.shapes import VideoSize
from tests.adapters.toys import toy_adapter, toy_card, trained
from tests.fixtures.family import MEMBERS, BaseOf
from tests.inference.mixes import (
    WIDER,
    Toy,
    bits,
    deltas,
    files_of,
    furthest,
    kinds,
    open_mix,
    predict,
    same_bits,
    weights_of,
    write,
)

TOY = Toy(rank=8, alpha=4, seed=1)
LIKE = replace(TOY, seed=2, alpha=8)
WIDE = Toy(rank=4, alpha=4, seed=3, targets=WIDER)
LAST = "transformer.transformer_blocks.1.attn1.to_v.lora_B.weight"


@pytest.fixture(scope="module")
def base(base_of: BaseOf) -> Path:
    return base_of(MEMBERS[1])


@pytest.fixture(scope="module")
def files(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    toys = {"toy": TOY, "like": LIKE, "wide": WIDE}
    return files_of(tmp_path_factory.mktemp("files"), base, toys.items())


def metadata(file: Path, **more: str) -> dict[str, str]:
    with safe_open(file, framework="pt") as opened:
        return {**opened.metadata(), **more}


def carded(file: Path, folder: Path, **card: object) -> Path:
    """A copy with a card of ours in it."""
    text = toy_card(rank=8, alpha=4, **card).model_dump_json()
    save_file(load_file(file), folder / "carded.safetensors", metadata(file, cogvx_card=text))
    return folder / "carded.safetensors"


def changed(file: Path, folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    """A copy with other tensors, and all that the file says of itself."""
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, folder / "changed.safetensors", metadata(file))
    return folder / "changed.safetensors"


def spike(tensors: dict[str, torch.Tensor]) -> None:
    """One layer overflows half precision long before the others do."""
    tensors[LAST][0, 0] = 6e4


@pytest.mark.parametrize("fused_at", [None, 0.5])
def test_what_a_mix_says_of_itself(base, files, fused_at) -> None:
    _, mix = open_mix(base)
    if fused_at is not None:
        mix.fuse(fused_at)
    attached = mix.attach("a b.c", files["wide"])
    assert (attached.name, attached.file, attached.modules) == ("a b.c", files["wide"], 14)
    assert (attached.rank, attached.card) == (4, None)
    mix.use({"a b.c": 0.5})
    swapped = mix.swap("a b.c", files["toy"])
    assert mix.attached == {"a b.c": swapped}
    assert (swapped.modules, swapped.rank) == (8, 8)
    assert mix.weights == {"a b.c": 0.5}
    assert mix.fused_at == fused_at


@pytest.mark.parametrize(
    ("card", "sentence"),
    [
        (
            {"base_fingerprint": "c" * 64},
            r"names the base base \(c{12}\), .* \(b{12}",
        ),
        ({"image_latent_scale": "raw"}, "first frames' latents raw, and this session has no first"),
        ({"targets": WIDER}, r"select 28 tensors here, of which 12 are missing, such as .*ff\.net"),
    ],
)
def test_a_card_that_speaks_of_another_base_is_believed(
    base, files, tmp_path, card, sentence
) -> None:
    pipeline, mix = open_mix(base, fingerprint="b" * 64)
    before = bits(pipeline.transformer)
    wrong = carded(files["toy"], tmp_path, **{"base_fingerprint": "b" * 64, **card})
    with pytest.raises(IntegrityError, match=sentence):
        mix.attach("a", wrong)
    assert same_bits(bits(pipeline.transformer), before)
    assert mix.attach("a", carded(files["toy"], tmp_path, base_fingerprint="b" * 64)).card


def test_everything_that_is_wrong_is_said_at_once(base, files, tmp_path) -> None:
    _, mix = open_mix(base, fingerprint="b" * 64)
    with pytest.raises(IntegrityError, match=r"\(f{12}\).*; it was trained with .*divided"):
        mix.attach("a", carded(files["toy"], tmp_path, image_latent_scale="divided"))


@pytest.mark.parametrize(
    ("origin", "scale", "fits"),
    [
        ("trained", "raw", True),
        ("trained", "divided", False),
        ("trained", None, False),
        ("converted", "divided", False),
        ("converted", None, True),
    ],
)
def test_first_frames_are_scaled_as_they_were_in_training(
    base_of, tmp_path, origin, scale, fits
) -> None:
    base = base_of(MEMBERS[4])
    file = write(tmp_path / "a.safetensors", TOY, base)
    _, mix = open_mix(base, image_scale="raw")
    told = carded(file, tmp_path, image_latent_scale=scale, origin=origin)
    if fits:
        assert mix.attach("a", told).card.image_latent_scale == scale
    else:
        with pytest.raises(IntegrityError, match="and this session has first frames' latents raw"):
            mix.attach("a", told)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda all_: all_.update({LAST: all_[LAST][:, :4].clone()}), r"A is \(8, 32\) and B is"),
        (lambda all_: all_.update({LAST: torch.zeros(())}), r"B is \(\) for .* 32 outputs"),
        (lambda all_: all_.update({LAST: all_[LAST][:-1].clone()}), r"B is \(31, 8\)"),
        (lambda all_: all_.pop(LAST), "one of two matrices"),
        (lambda all_: all_.update({LAST: all_[LAST] * float("inf")}), "not finite"),
        (lambda all_: all_.clear(), "holds no adapter"),
        (lambda all_: all_[LAST].fill_(1e6), "to_v is not finite in torch.float16"),
    ],
)
@pytest.mark.parametrize("fused_at", [None, 1.0])
def test_a_file_that_cannot_act_leaves_everything_as_it_was(
    base, files, tmp_path, change, sentence, fused_at
) -> None:
    pipeline, mix = open_mix(base, dtype="float16")
    mix.attach("a", files["toy"])
    mix.use({"a": 1.0})
    if fused_at is not None:
        mix.fuse(fused_at)
    before = bits(pipeline.transformer)
    wrong = changed(files["toy"], tmp_path, change)
    for act in (lambda: mix.attach("b", wrong), lambda: mix.swap("a", wrong)):
        with pytest.raises(IntegrityError, match=sentence):
            act()
    assert same_bits(bits(pipeline.transformer), before)
    assert mix.attached["a"].file == files["toy"]


@pytest.mark.parametrize(
    ("act", "own", "fused_at"),
    [
        (lambda mix, _: mix.fuse(1e4), 0.01, None),
        (lambda mix, _: mix.fuse(1e4), 0.01, 1.0),
        (lambda mix, _: mix.use({"a": 1e4, "c": 2.0}), 0.01, 1.0),
        (lambda mix, spiky: mix.swap("like", spiky), 0.01, 1.0),
        (lambda mix, _: mix.seal(), 1e4, None),
        (lambda mix, _: mix.fuse(), 1e4, None),
    ],
)
def test_what_overflows_half_way_is_undone(base, files, tmp_path, act, own, fused_at) -> None:
    pipeline, mix = open_mix(base, dtype="float16")
    model = pipeline.transformer
    plain = bits(model)
    spiky = changed(files["toy"], tmp_path, spike)
    mix.attach("a", spiky)
    mix.attach("c", files["wide"])
    mix.attach("like", files["like"])
    weights = {"a": own, "c": 0.5, "like": 20.0}
    mix.use(weights)
    if fused_at is not None:
        mix.fuse(fused_at)
    before = weights_of(model)
    with pytest.raises(IntegrityError, match=r"blocks.1.attn1.to_v is not finite in torch.float16"):
        act(mix, spiky)
    assert furthest(weights_of(model), before) == 0.0
    assert mix.attached["like"].file == files["like"]
    assert (mix.weights, mix.fused_at) == (weights, fused_at)
    for name in ("a", "c", "like"):
        mix.detach(name)
    mix.unfuse()
    assert same_bits(bits(model), plain)


@pytest.mark.parametrize("act", ["attach", "use", "swap", "detach", "fuse", "unfuse"])
def test_a_sealed_mix_stays_as_it_is(base, files, act) -> None:
    pipeline, mix = open_mix(base)
    mix.attach("a", files["toy"])
    mix.use({"a": 0.5})
    parts = kinds(pipeline.transformer)
    mix.seal()
    fused = bits(pipeline.transformer)
    words = {
        "attach": ("b", files["like"]),
        "use": ({},),
        "swap": ("a", files["like"]),
        "detach": ("a",),
    }
    with pytest.raises(ConfigError, match="fused for good; open a new session"):
        getattr(mix, act)(*words.get(act, ()))
    mix.seal()
    assert same_bits(bits(pipeline.transformer), fused)
    assert kinds(pipeline.transformer) != parts, "the LoRA layers are gone"
    assert (mix.fused_at, mix.weights, list(mix.attached)) == (1.0, {"a": 0.5}, ["a"])


def test_a_sealed_mix_is_rounded_to_eight_bits_with_its_adapters_in_it(base, files) -> None:
    pipeline, mix = open_mix(base)
    plain = weights_of(pipeline.transformer)
    mix.attach("a", files["toy"])
    mix.use({"a": 2.0})
    mix.fuse(0.5)
    mix.seal()
    assert mix.fused_at == 0.5
    for name, delta in deltas(files["toy"], TOY.alpha).items():
        plain[name] = plain[name] + delta
    assert furthest(weights_of(pipeline.transformer), plain) < 1e-6
    store_base(pipeline.transformer, "int8")
    assert stored_weights(pipeline.transformer) == "int8"
    for name in deltas(files["toy"], TOY.alpha):
        layer = pipeline.transformer.get_submodule(name.removesuffix(".weight"))
        stored = layer.weight.double() * layer.scale
        assert abs(stored.numpy() - plain[name]).max() < abs(plain[name]).max() / 127


def test_adapters_are_not_put_beside_a_base_of_eight_bits(base, files) -> None:
    pipeline, mix = open_mix(base)
    store_base(pipeline.transformer, "float8")
    with pytest.raises(ConfigError, match="stored in 8 bits already"):
        mix.attach("a", files["toy"])


def test_a_scale_that_is_no_number_is_refused(base, files) -> None:
    _, mix = open_mix(base)
    with pytest.raises(ConfigError, match=r"scale = inf is not finite; use 1\.0"):
        mix.fuse(float("inf"))
    assert mix.fused_at is None


@pytest.mark.parametrize(("dtype", "digits"), [("bfloat16", 8), ("float16", 11)])
def test_fused_weights_are_rounded_once(base, files, dtype, digits) -> None:
    pipeline, mix = open_mix(base, dtype=dtype)
    exact = weights_of(pipeline.transformer)
    for name, file, weight in (("a", "toy", 0.7), ("b", "wide", -1.3)):
        mix.attach(name, files[file])
        for key, delta in deltas(files[file], (TOY if file == "toy" else WIDE).alpha).items():
            exact[key] = exact[key] + 0.9 * weight * delta
    mix.use({"a": 0.7, "b": -1.3})
    mix.fuse(0.9)
    fused = weights_of(pipeline.transformer)
    for key, wanted in exact.items():
        half_a_step = np.exp2(np.floor(np.log2(abs(wanted) + 1e-7)) - digits)
        assert (abs(fused[key] - wanted) <= half_a_step + 1e-6).all(), key


def test_a_fused_mix_has_the_bits_that_baking_writes(nano_base, tmp_path) -> None:
    shares = [
        Share(toy_adapter(nano_base, tmp_path / str(seed), seed=seed), weight)
        for seed, weight in ((1, 0.7), (2, -0.4))
    ]
    pipeline, mix = open_mix(nano_base)
    for number, share in enumerate(shares):
        mix.attach(str(number), share.file)
    mix.use({"1": -0.4, "0": 0.7})
    mix.fuse()
    bake(nano_base, shares, tmp_path / "baked")
    baked = load_transformer(tmp_path / "baked", dtype="float32")
    assert same_bits(bits(baked), bits(pipeline.transformer))


def test_only_layers_that_change_are_fused_anew(base, files) -> None:
    pipeline, mix = open_mix(base)
    weights = {
        module: pipeline.transformer.get_parameter(f"transformer_blocks.0.{module}.weight")
        for module in ("attn1.to_q", "ff.net.2")
    }

    def writes(act: Callable[[], object]) -> list[int]:
        before = [weight._version for weight in weights.values()]
        act()
        return [w._version - was for w, was in zip(weights.values(), before, strict=True)]

    mix.fuse()
    assert writes(lambda: mix.attach("a", files["toy"])) == [0, 0]
    assert writes(lambda: mix.use({"a": 1.0})) == [1, 0]
    assert writes(lambda: mix.attach("b", files["wide"])) == [0, 0]
    assert writes(lambda: mix.use({"b": 0.0, "a": 1.0})) == [0, 0]
    assert writes(lambda: mix.use({"a": 1.0, "b": 1.0})) == [1, 1]
    assert writes(lambda: mix.swap("a", files["like"])) == [1, 0]
    assert writes(lambda: mix.fuse(1.0)) == [0, 0]
    assert writes(lambda: mix.detach("b")) == [1, 1]


def test_the_file_is_not_read_again(base, tmp_path) -> None:
    pipeline, mix = open_mix(base)
    file = write(tmp_path / "a.safetensors", TOY, base)
    added = deltas(file, TOY.alpha)
    wanted = weights_of(pipeline.transformer)
    mix.attach("a", file)
    with file.open("r+b") as opened:  # in place, as a copying tool does
        opened.truncate(0)
    mix.use({"a": 1.0})
    mix.fuse()
    mix.unfuse()
    for name, delta in added.items():
        wanted[name] = wanted[name] + delta
    assert furthest(weights_of(pipeline.transformer), wanted) < 1e-6


def test_loading_draws_no_random_numbers(base, files) -> None:
    _, mix = open_mix(base)
    before = torch.random.get_rng_state()
    mix.attach("a", files["toy"])
    mix.fuse()
    mix.unfuse()
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.fixture
def compiled(base: Path) -> tuple[Pipeline, AdapterMix, object]:
    """A compiled transformer that counts what is compiled."""
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    pipeline, mix = open_mix(base)
    pipeline.transformer.compile(backend=counter)
    yield pipeline, mix, counter
    torch._dynamo.reset()


@pytest.mark.parametrize("fused", [False, True])
def test_a_compiled_model_stays_compiled_over_a_swap(base, files, compiled, fused) -> None:
    pipeline, mix, counter = compiled
    eager, beside = open_mix(base)
    for each in (mix, beside):
        each.attach("a", files["toy"])
        each.use({"a": 0.7})
    if fused:
        mix.fuse()
    first = predict(pipeline, base)
    graphs = counter.frame_count
    assert graphs > 0
    for each in (mix, beside):
        each.swap("a", files["like"])
    second = predict(pipeline, base)
    assert counter.frame_count == graphs
    assert torch.allclose(second, predict(eager, base), atol=1e-5)
    assert not torch.allclose(second, first, atol=1e-3)


def test_a_compiled_model_is_the_base_once_fused(base, files, compiled) -> None:
    pipeline, mix, counter = compiled
    plain = predict(pipeline, base)
    graphs, operations = counter.frame_count, counter.op_count
    mix.attach("a", files["toy"])
    mix.use({"a": 1.0})
    mix.fuse()
    assert not torch.allclose(predict(pipeline, base), plain, atol=1e-3)
    mix.fuse(0.0)
    assert torch.equal(predict(pipeline, base), plain)
    assert (counter.frame_count, counter.op_count) == (graphs, operations)


def off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference, relative to the largest number."""
    return float((found - wanted).abs().max() / wanted.abs().max())


ROUNDING = 1e-5  # of float32, through all layers of a prediction


@pytest.mark.parametrize("scale", [0.0, 0.25, 0.5, 1.0])
def test_a_fused_prediction_is_the_unfused_one_to_the_rounding_and_no_other_scales(
    base, files, scale
) -> None:
    pipeline, mix = open_mix(base)
    plain = predict(pipeline, base)
    mix.attach("a", files["toy"])
    mix.attach("b", files["wide"])
    mix.use({"a": scale, "b": -0.5 * scale})
    beside = predict(pipeline, base)
    mix.use({"a": 1.0, "b": -0.5})
    mix.fuse(scale)
    fused = predict(pipeline, base)
    assert off(fused, beside) < ROUNDING
    assert torch.equal(fused, plain) == (scale == 0.0)
    mix.fuse(scale + 0.01)
    assert off(predict(pipeline, base), beside) > 30 * ROUNDING, "a hundredth more would show"


Seen = dict[str, torch.Tensor]


def watched(session: Session, request: Request) -> tuple[np.ndarray, Seen]:
    """A video, and what it was made of before anything was rounded to whole numbers."""
    seen: dict[str, list[torch.Tensor]] = {"predicted": [], "latents": [], "pixels": []}
    decode = AutoencoderKLCogVideoX.decode

    def watch(vae: AutoencoderKLCogVideoX, latents: torch.Tensor, **words: object) -> object:
        decoded = decode(vae, latents, **words)
        seen["latents"].append(latents)
        seen["pixels"].append(decoded.sample)
        return decoded

    hook = session.transformer.register_forward_hook(
        lambda _module, _words, output: seen["predicted"].append(output[0])
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AutoencoderKLCogVideoX, "decode", watch)
        video = session.generate(request)
    hook.remove()
    return video, {name: torch.stack(each) for name, each in seen.items()}


@pytest.mark.parametrize("scale", [0.0, 0.25, 0.5, 1.0])
def test_a_fused_session_generates_what_an_unfused_one_does(nano_session, scale) -> None:
    session, request, plain, file = nano_session
    session.attach("a", file)
    session.use({"a": scale})
    _, beside = watched(session, request)
    session.use({"a": 1.0})
    session.fuse(scale)
    video, fused = watched(session, request)
    assert np.array_equal(video, plain) == (scale == 0.0)
    session.fuse(scale + 0.01)
    _, other = watched(session, request)
    session.unfuse()
    session.detach("a")
    assert np.array_equal(session.generate(request), plain)
    for name, wanted in beside.items():
        limit = ROUNDING if name == "predicted" else 5 * ROUNDING  # of two steps and the VAE
        assert off(fused[name], wanted) < limit, name
        assert off(other[name], wanted) > 30 * limit, f"{name} would show a hundredth more"


@pytest.fixture(scope="module")
def nano_session(
    nano_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Session, Request, np.ndarray, Path]:
    """A session over the toy base, a request, what the base makes of it, and an adapter."""
    session = Session.open(nano_base, dtype="float32")
    sampling = Sampling(steps=2, guidance=6.0, sampler="dpm")
    request = Request("a red circle", 3, VideoSize(9, 32, 32), 8, sampling)
    # alpha of 5 ranks, so that a hundredth of its strength stands out of the rounding
    card = toy_card(rank=8, alpha=40, base_fingerprint=session.fingerprint)
    strong = trained(nano_base, rank=8, alpha=40)
    file = export_adapter(strong, tmp_path_factory.mktemp("nano"), card=card)
    return session, request, session.generate(request), file


def test_what_is_not_said_is_not_done(base, files) -> None:
    _, mix = open_mix(base)
    for act, words in (("swap", ("a", files["toy"])), ("detach", ("a",))):
        with pytest.raises(CogvxError, match='no adapter "a" is attached'):
            getattr(mix, act)(*words)
    assert json.dumps(dict(mix.weights)) == "{}"


def test_a_card_that_knows_no_bytes_is_believed_in_what_it_knows(
    base, files, tmp_path, caplog
) -> None:
    _, mix = open_mix(base, fingerprint="b" * 64)
    unknown = {"base_fingerprint": None}
    hub = carded(files["toy"], tmp_path, base_path="zai-org/CogVideoX-5b-I2V", **unknown)
    with pytest.raises(IntegrityError, match=r"5b-I2V \(bytes unknown\), and this is a CogVideoX"):
        mix.attach("a", hub)
    mix.attach("a", carded(files["toy"], tmp_path, base_path="zai-org/CogVideoX-5b", **unknown))
    assert "nothing proves that a CogVideoX-5b" in caplog.text
