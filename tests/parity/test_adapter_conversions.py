"""Adapters of other programs, converted: what they add is `scale * B @ A` by numpy, layer by layer.

Files are built here from the programs' own naming and not by this project. What was converted is
loaded by stock diffusers into a base in float64, and its layers are asked what they add.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from diffusers import CogVideoXPipeline, CogVideoXTransformer3DModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cogvx.adapters.base import find_base
from cogvx.adapters.card import ADAPTER_FILE, read_card
from cogvx.adapters.convert import Converted, convert
from cogvx.adapters.export import export_adapter
from cogvx.adapters.inspect import describe
from cogvx.adapters.kohya import KOHYA_FILE
from cogvx.errors import ConfigError, IntegrityError, UserError
from cogvx.model.lora import attach_lora
from cogvx.recipe_sections import LoraConfig
from tests.adapters.toys import toy_card, trained
from tests.fixtures.family import MEMBERS, BaseOf, Member

RANK, WIDTH, LAYERS = 8, 32, 2
WITHIN = 1e-6  # of the largest number that an adapter adds to a layer
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
FIVE_B = MEMBERS[1]

Deltas = Mapping[str, np.ndarray]
Matrices = Mapping[str, tuple[Tensor, Tensor]]


@pytest.fixture(scope="module")
def base(base_of: BaseOf) -> Path:
    return base_of(FIVE_B)


def matrices(
    layers: int = LAYERS,
    *,
    width: int = WIDTH,
    rank: int = RANK,
    dtype: torch.dtype = torch.float32,
) -> Matrices:
    """A and B of every layer by its name in diffusers."""
    generator = torch.Generator().manual_seed(0)
    return {
        f"transformer_blocks.{layer}.attn1.{target}": (
            torch.randn((rank, width), generator=generator).to(dtype),
            torch.randn((width, rank), generator=generator).to(dtype),
        )
        for layer in range(layers)
        for target in TARGETS
    }


def deltas_of(pairs: Matrices, scale: Callable[[str], float]) -> Deltas:
    return {
        name: scale(name) * (b_or.double().numpy() @ a_ri.double().numpy())
        for name, (a_ri, b_or) in pairs.items()
    }


@torch.no_grad()
def assert_diffusers_adds(folder: Path, base: Path, wanted: Deltas) -> None:
    """What stock diffusers makes of a converted file, asked of the layers themselves."""
    plain = CogVideoXTransformer3DModel.from_pretrained(base / "transformer").to(torch.float64)
    loaded = CogVideoXTransformer3DModel.from_pretrained(base / "transformer").to(torch.float64)
    state, metadata = CogVideoXPipeline.lora_state_dict(str(folder), return_lora_metadata=True)
    CogVideoXPipeline.load_lora_into_transformer(state, transformer=loaded, metadata=metadata)
    for name, layer in plain.named_modules():
        if not isinstance(layer, nn.Linear):
            continue
        eye = torch.eye(layer.in_features, dtype=torch.float64)
        found = (loaded.get_submodule(name)(eye) - layer(eye)).T.numpy()
        if name not in wanted:
            assert not found.any(), name
            continue
        assert np.abs(found - wanted[name]).max() <= WITHIN * np.abs(wanted[name]).max(), name


def converted(path: Path, out: Path, base: Path, **choices: object) -> Converted:
    return convert(path, out, base=find_base(str(base)), **choices)  # type: ignore[arg-type]


# --- SAT -----------------------------------------------------------------------------------------

PARTS = {
    "to_q": "query_key_value.matrix_{}.0",
    "to_k": "query_key_value.matrix_{}.1",
    "to_v": "query_key_value.matrix_{}.2",
    "to_out.0": "dense.matrix_{}.0",
}


def sat_names(
    pairs: Matrices, start: str = "model.diffusion_model.transformer."
) -> dict[str, Tensor]:
    """As the original training code calls them."""
    found = {}
    for name, (a_ri, b_or) in pairs.items():
        _, layer, _, target = name.split(".", 3)
        stem = f"{start}layers.{layer}.attention.{PARTS[target]}"
        found[stem.format("A")], found[stem.format("B")] = a_ri, b_or
    return found


def whole_checkpoint(pairs: Matrices) -> dict[str, object]:
    """With everything else that stands in one: the base's weights, the VAE, the text encoder."""
    others = {
        "model.diffusion_model.transformer.layers.0.attention.query_key_value.original.weight": (
            torch.ones(3 * WIDTH, WIDTH)
        ),
        "model.diffusion_model.mixins.patch_embed.proj.weight": torch.ones(WIDTH, 16, 2, 2),
        "first_stage_model.encoder.conv_in.conv.weight": torch.ones(3, 3),
        "conditioner.embedders.0.transformer.encoder.block.0.layer.0.SelfAttention.q.weight": (
            torch.ones(4, 4)
        ),
    }
    return {
        "module": {**others, **sat_names(pairs)},
        "dp_world_size": 1,
        "mp_world_size": 1,
        "optimizer": None,
        "lr_scheduler": None,
        "sparse_tensor_module_names": set(),
        "skipped_steps": 0,
        "global_steps": 1000,
        "ds_config": {"train_batch_size": 2},
        "ds_version": "0.14",
    }


def saved(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def as_checkpoint(pairs: Matrices, folder: Path) -> Path:
    return saved(whole_checkpoint(pairs), folder / "mp_rank_00_model_states.pt")


def as_checkpoint_folder(pairs: Matrices, folder: Path) -> Path:
    (folder / "1000").mkdir()
    saved(whole_checkpoint(pairs), folder / "1000" / "mp_rank_00_model_states.pt")
    (folder / "latest").write_text("1000")
    return folder


NESTINGS: dict[str, Callable[[Matrices, Path], Path]] = {
    "whole": as_checkpoint,
    "folder": as_checkpoint_folder,
    "module": lambda pairs, folder: saved({"module": sat_names(pairs)}, folder / "a.pt"),
    "state_dict": lambda pairs, folder: saved({"state_dict": sat_names(pairs)}, folder / "a.ckpt"),
    "flat": lambda pairs, folder: saved(sat_names(pairs), folder / "a.pt"),
    "short names": lambda pairs, folder: saved(sat_names(pairs, "transformer."), folder / "a.pt"),
    "bare names": lambda pairs, folder: saved(sat_names(pairs, ""), folder / "a.pt"),
    "parameters": lambda pairs, folder: saved(
        {"module": {name: nn.Parameter(part) for name, part in sat_names(pairs).items()}},
        folder / "a.pt",
    ),
}


@pytest.mark.parametrize("nesting", NESTINGS)
def test_a_checkpoint_of_sat_acts_at_its_alpha_of_one(
    tmp_path: Path, base: Path, nesting: str
) -> None:
    pairs = matrices()
    found = converted(NESTINGS[nesting](pairs, tmp_path), tmp_path / "out", base)
    assert (found.form, found.rank, found.alpha) == ("sat", RANK, 1)
    assert_diffusers_adds(tmp_path / "out", base, deltas_of(pairs, lambda _: 1 / RANK))


@pytest.mark.parametrize("alpha", [1.0, 0.5, 3.0, 32.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_another_alpha_of_sat_is_said(
    tmp_path: Path, base: Path, alpha: float, dtype: torch.dtype
) -> None:
    pairs = matrices(dtype=dtype)
    found = converted(as_checkpoint(pairs, tmp_path), tmp_path / "out", base, alpha=alpha)
    assert found.card.alpha == alpha
    assert_diffusers_adds(tmp_path / "out", base, deltas_of(pairs, lambda _: alpha / RANK))


@pytest.mark.parametrize("member", MEMBERS, ids=str)
def test_every_member_of_the_family_is_converted_for(
    tmp_path: Path, base_of: BaseOf, member: Member
) -> None:
    pairs = matrices()
    converted(as_checkpoint(pairs, tmp_path), tmp_path / "out", base_of(member))
    assert_diffusers_adds(tmp_path / "out", base_of(member), deltas_of(pairs, lambda _: 1 / RANK))


# --- kohya, VideoX-Fun ---------------------------------------------------------------------------


def kohya_names(pairs: Matrices, alphas: Mapping[str, float] | None = None) -> dict[str, Tensor]:
    """As VideoX-Fun and loaders of ComfyUI call them."""
    found = {}
    for name, (a_ri, b_or) in pairs.items():
        stem = "lora_unet__" + name.replace(".", "_")
        found[f"{stem}.lora_down.weight"], found[f"{stem}.lora_up.weight"] = a_ri, b_or
        if alphas is not None:
            found[f"{stem}.alpha"] = torch.tensor(alphas[name])
    return found


@pytest.mark.parametrize("alpha", [4.0, 3.0, 8.0, 1.0])
def test_a_file_of_kohya_acts_at_the_alphas_beside_its_matrices(
    tmp_path: Path, base: Path, alpha: float
) -> None:
    pairs = matrices()
    save_file(kohya_names(pairs, dict.fromkeys(pairs, alpha)), tmp_path / "x.safetensors")
    found = converted(tmp_path / "x.safetensors", tmp_path / "out", base)
    assert (found.form, found.alpha) == ("kohya", alpha)
    assert_diffusers_adds(tmp_path / "out", base, deltas_of(pairs, lambda _: alpha / RANK))


def test_every_layer_of_kohya_has_its_own_alpha(tmp_path: Path, base: Path) -> None:
    pairs = matrices()
    alphas = {name: 1.0 + number for number, name in enumerate(pairs)}
    save_file(kohya_names(pairs, alphas), tmp_path / "x.safetensors")
    converted(tmp_path / "x.safetensors", tmp_path / "out", base)
    assert_diffusers_adds(
        tmp_path / "out", base, deltas_of(pairs, lambda name: alphas[name] / RANK)
    )


def test_without_an_alpha_anywhere_it_is_asked_for(tmp_path: Path, base: Path) -> None:
    pairs = matrices()
    save_file(kohya_names(pairs), tmp_path / "x.safetensors")
    with pytest.raises(ConfigError, match="--alpha"):
        converted(tmp_path / "x.safetensors", tmp_path / "out", base)
    assert not (tmp_path / "out").exists()
    converted(tmp_path / "x.safetensors", tmp_path / "out", base, alpha=4)
    assert_diffusers_adds(tmp_path / "out", base, deltas_of(pairs, lambda _: 0.5))


def test_layers_of_other_ranks_are_converted_exactly(tmp_path: Path, base: Path) -> None:
    pairs = {
        name: tuple(matrices(rank=2 + number % 3)[name]) for number, name in enumerate(matrices())
    }
    save_file(kohya_names(pairs, dict.fromkeys(pairs, 2.0)), tmp_path / "x.safetensors")
    converted(tmp_path / "x.safetensors", tmp_path / "out", base)
    assert_diffusers_adds(
        tmp_path / "out",
        base,
        deltas_of(pairs, lambda name: 2.0 / pairs[name][0].shape[0]),
    )


def test_back_in_kohyas_form_it_acts_the_same_with_and_without_alpha(
    tmp_path: Path, base: Path
) -> None:
    card = toy_card(rank=RANK, alpha=3, base_fingerprint=find_base(str(base)).fingerprint)
    ours = export_adapter(trained(base, rank=RANK, alpha=3), tmp_path / "ours", card=card)
    state = load_file(ours)
    found = converted(ours, tmp_path / "out", base, to="kohya")
    assert found.file == tmp_path / "out" / KOHYA_FILE
    written = load_file(found.file)
    for module in matrices():
        a_ri, b_or = (state[f"transformer.{module}.lora_{x}.weight"] for x in "AB")
        stem = "lora_unet__" + module.replace(".", "_")
        up, down = written[f"{stem}.lora_up.weight"], written[f"{stem}.lora_down.weight"]
        assert float(written[f"{stem}.alpha"]) == down.shape[0] == RANK
        torch.testing.assert_close(up @ down, b_or @ a_ri, atol=0, rtol=1e-6)
    assert len(written) == 3 * len(matrices())


# --- diffusers, peft, finetrainers ---------------------------------------------------------------


def diffusers_names(pairs: Matrices, prefix: str = "transformer.") -> dict[str, Tensor]:
    return {
        f"{prefix}{name}.lora_{letter}.weight": part
        for name, pair in pairs.items()
        for letter, part in zip("AB", pair, strict=True)
    }


def test_an_old_file_without_metadata_acts_at_the_alpha_that_is_said(
    tmp_path: Path, base: Path
) -> None:
    pairs = matrices()
    save_file(diffusers_names(pairs), tmp_path / ADAPTER_FILE)
    with pytest.raises(ConfigError, match="--alpha"):
        converted(tmp_path / ADAPTER_FILE, tmp_path / "out", base)
    converted(tmp_path / ADAPTER_FILE, tmp_path / "out", base, alpha=3)
    assert_diffusers_adds(tmp_path / "out", base, deltas_of(pairs, lambda _: 3 / RANK))


@pytest.mark.parametrize("prefix", ["", "base_model.model.", "model.", "diffusion_model."])
def test_names_with_another_prefix_or_none_are_converted(
    tmp_path: Path, base: Path, prefix: str
) -> None:
    pairs = matrices()
    save_file(diffusers_names(pairs, prefix), tmp_path / "x.safetensors")
    found = converted(tmp_path / "x.safetensors", tmp_path / "out", base, alpha=4)
    assert found.form == "unprefixed"
    assert_diffusers_adds(tmp_path / "out", base, deltas_of(pairs, lambda _: 0.5))


def test_what_finetrainers_records_is_the_strength(tmp_path: Path, base: Path) -> None:
    pairs = matrices()
    told = {"r": RANK, "lora_alpha": 6, "init_lora_weights": True, "target_modules": ["to_q"]}
    save_file(
        diffusers_names(pairs),
        tmp_path / ADAPTER_FILE,
        metadata={"lora_config": json.dumps(told, indent=4)},
    )
    converted(tmp_path / ADAPTER_FILE, tmp_path / "out", base)
    assert_diffusers_adds(tmp_path / "out", base, deltas_of(pairs, lambda _: 6 / RANK))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"alpha_pattern": {"to_k": 7, "transformer_blocks.1.attn1.to_q": 2}},
        {"rank_pattern": {"to_v": 2}, "alpha_pattern": {"to_v": 5}},
        {"rank_pattern": {"attn1.to_out.0": 3}, "use_rslora": True},
    ],
    ids=lambda settings: ", ".join(settings) or "plain",
)
@pytest.mark.parametrize("as_folder", [True, False])
def test_what_peft_was_told_is_the_strength(
    tmp_path: Path, base: Path, settings: dict[str, object], as_folder: bool
) -> None:
    """peft's own product for each layer is the truth, whatever decides its scale."""
    model = CogVideoXTransformer3DModel.from_pretrained(base / "transformer")
    config = peft.LoraConfig(r=RANK, lora_alpha=6, target_modules=list(TARGETS), **settings)
    adapted = peft.get_peft_model(model, config)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    wanted = {
        name.removeprefix("base_model.model."): layer.get_delta_weight("default").detach().numpy()
        for name, layer in adapted.named_modules()
        if isinstance(layer, LoraLayer)
    }
    if as_folder:
        adapted.save_pretrained(tmp_path / "peft")
        source = tmp_path / "peft"
    else:
        told = {f"transformer.{name}": item for name, item in config.to_dict().items()}
        told["transformer.target_modules"] = list(TARGETS)
        (tmp_path / "peft").mkdir()
        source = tmp_path / "peft" / ADAPTER_FILE
        state = peft.get_peft_model_state_dict(adapted)
        save_file(
            {name.replace("base_model.model", "transformer"): it for name, it in state.items()},
            source,
            metadata={"lora_adapter_metadata": json.dumps(told, default=str)},
        )
    converted(source, tmp_path / "out", base)
    assert_diffusers_adds(tmp_path / "out", base, wanted)


def test_the_card_says_the_strength_also_where_it_was_over_the_root_of_the_rank(
    tmp_path: Path, base: Path
) -> None:
    told = {"transformer.r": RANK, "transformer.lora_alpha": 6, "transformer.use_rslora": True}
    save_file(
        diffusers_names(matrices()),
        tmp_path / ADAPTER_FILE,
        metadata={"lora_adapter_metadata": json.dumps(told)},
    )
    card = converted(tmp_path / ADAPTER_FILE, tmp_path / "out", base).card
    assert card.alpha / card.rank == pytest.approx(6 / RANK**0.5)
    assert any("root" in warning for warning in card.warnings)


def test_our_own_file_is_not_baked_twice(tmp_path: Path, base: Path) -> None:
    transformer = trained(base, rank=RANK, alpha=3)
    wanted = {
        name: layer.get_delta_weight("default").detach().double().numpy()
        for name, layer in transformer.named_modules()
        if isinstance(layer, LoraLayer)
    }
    its_card = toy_card(rank=RANK, alpha=3, base_fingerprint=find_base(str(base)).fingerprint)
    ours = export_adapter(transformer, tmp_path / "ours", card=its_card)
    again = converted(ours, tmp_path / "again", base)
    assert_diffusers_adds(tmp_path / "again", base, wanted)
    kohya = converted(again.file, tmp_path / "kohya", base, to="kohya")
    back = converted(kohya.file, tmp_path / "back", base)
    assert_diffusers_adds(tmp_path / "back", base, wanted)
    card = read_card(back.file)
    assert card is not None
    assert (card.rank, card.alpha) == (RANK, 3)  # what it was trained with is not lost on the way
    assert describe(back.file).strength == 1.0
    with pytest.raises(ConfigError, match="contradicts"):
        converted(ours, tmp_path / "wrong", base, alpha=3)


# --- how many layers -----------------------------------------------------------------------------


def deep_base(folder: Path, layers: int) -> Path:
    """A base of a published depth and of toy width."""
    model = CogVideoXTransformer3DModel(
        num_attention_heads=1,
        attention_head_dim=16,
        num_layers=layers,
        in_channels=4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=8,
        max_text_seq_length=4,
        sample_width=12,
        sample_height=8,
        sample_frames=9,
        use_rotary_positional_embeddings=layers == 42,
    )
    model.save_pretrained(folder / "transformer")
    return folder


@pytest.fixture(scope="module")
def deep_bases(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    found = {}
    for layers in (30, 42):
        folder = deep_base(tmp_path_factory.mktemp(f"deep{layers}"), layers)
        for part in ("vae", "scheduler"):
            (folder / part).symlink_to(base / part)
        found[layers] = folder
    return found


@pytest.mark.parametrize(("layers", "tensors"), [(30, 240), (42, 336)])
def test_all_of_the_published_tensors_pass_and_one_missing_is_named(
    tmp_path: Path, deep_bases: dict[int, Path], layers: int, tensors: int
) -> None:
    deep = deep_bases[layers]
    pairs = matrices(layers, width=16, rank=2)
    found = converted(as_checkpoint(pairs, tmp_path), tmp_path / "out", deep)
    assert (found.layers, found.tensors) == (layers, tensors)
    assert len(load_file(found.file)) == tensors
    assert_diffusers_adds(tmp_path / "out", deep, deltas_of(pairs, lambda _: 0.5))

    lost = f"transformer_blocks.{layers - 1}.attn1.to_v"
    sat_lost = f"layers.{layers - 1}.attention.query_key_value.matrix_B.2"
    kohya_lost = "lora_unet__" + lost.replace(".", "_") + ".lora_up.weight"
    forms: dict[str, tuple[dict[str, Tensor], str]] = {
        "sat": (sat_names(pairs), f"model.diffusion_model.transformer.{sat_lost}"),
        "kohya": (kohya_names(pairs, dict.fromkeys(pairs, 2.0)), kohya_lost),
        "diffusers": (diffusers_names(pairs), f"transformer.{lost}.lora_B.weight"),
        "unprefixed": (diffusers_names(pairs, ""), f"{lost}.lora_B.weight"),
    }
    for form, (state, name) in forms.items():
        assert name in state
        del state[name]
        save_file(state, tmp_path / f"{form}.safetensors")
        alpha = None if form == "kohya" else 2.0
        with pytest.raises(UserError) as caught:
            converted(tmp_path / f"{form}.safetensors", tmp_path / form, deep, alpha=alpha)
        assert name in str(caught.value), form
        assert not (tmp_path / form).exists()


@pytest.mark.parametrize(("mine", "other"), [(30, 42), (42, 30)])
def test_an_adapter_of_another_depth_is_refused(
    tmp_path: Path, deep_bases: dict[int, Path], mine: int, other: int
) -> None:
    path = as_checkpoint(matrices(mine, width=16, rank=2), tmp_path)
    with pytest.raises(ConfigError, match=rf"{mine}.*{other}|{other}.*{mine}"):
        converted(path, tmp_path / "out", deep_bases[other])


@pytest.mark.parametrize(("layers", "tensors"), [(30, 240), (42, 336)])
def test_export_writes_all_of_the_published_tensors_or_names_what_is_missing(
    tmp_path: Path, deep_bases: dict[int, Path], layers: int, tensors: int
) -> None:
    model = CogVideoXTransformer3DModel.from_pretrained(deep_bases[layers] / "transformer")
    attach_lora(model, LoraConfig(rank=2, alpha=1, allow_unusual=True), seed=0)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            nn.init.normal_(parameter)
    card = toy_card(rank=2, alpha=1)
    assert len(load_file(export_adapter(model, tmp_path / "a", card=card))) == tensors
    last = model.transformer_blocks[layers - 1].attn1
    last.to_v = last.to_v.base_layer
    with pytest.raises(IntegrityError, match=rf"transformer_blocks\.{layers - 1}\.attn1\.to_v"):
        export_adapter(model, tmp_path / "b", card=card)
    assert not (tmp_path / "b").exists()
