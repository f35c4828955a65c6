"""Baking: the weights that the sum says, everything else untouched, and a model that loads."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import CogVideoXPipeline, CogVideoXTransformer3DModel
from safetensors.torch import load_file, save_file

from cogvx.adapters.bake import PROVENANCE_FILE, Form, Provenance, bake
from cogvx.adapters.base import find_base
from cogvx.adapters.card import own_version, read_card
from cogvx.adapters.compose import merge
from cogvx.adapters.container import read_header
from cogvx.adapters.convert import convert
from cogvx.adapters.layout import adapted_modules
from cogvx.adapters.linears import linear_sizes
from cogvx.adapters.sharded import WEIGHTS
from cogvx.adapters.shares import Share
from cogvx.adapters.weights import LoraPair, read_pairs
from cogvx.adapters.write import write_adapter
from cogvx.digest import sha256_file
from cogvx.errors import ConfigError, IntegrityError
from cogvx.files import is_aside, read_document
from cogvx.inference.session import Session
from cogvx.model.identity import BASE_PARTS, fingerprint
from cogvx.variants import DType, read_facts
from tests.adapters.toys import toy_card
from tests.fixtures.family import MEMBERS, BaseOf, Member

SMALL = Form(shard_bytes=900_000)
WEIGHTS_OF = (0.8, -0.5)
_DTYPES: dict[DType, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def base_in(dtype: DType, nano_base: Path, folder: Path) -> Path:
    """The toy base with its transformer stored in a precision."""
    base = shutil.copytree(nano_base, folder)
    model = CogVideoXTransformer3DModel.from_pretrained(
        base, subfolder="transformer", torch_dtype=_DTYPES[dtype]
    )
    shutil.rmtree(base / "transformer")
    model.save_pretrained(base / "transformer", max_shard_size="2MB")
    return base


def adapter_of(base: Path, folder: Path, seed: int, *, rank: int = 4, **card: object) -> Path:
    """A random adapter of two targets of every block, made for a base."""
    config = json.loads((base / "transformer" / "config.json").read_bytes())
    width = config["num_attention_heads"] * config["attention_head_dim"]
    generator = torch.Generator().manual_seed(seed)
    pairs = {
        f"transformer_blocks.{layer}.attn1.{target}": LoraPair(
            0.1 * torch.randn((rank, width), generator=generator),
            0.1 * torch.randn((width, rank), generator=generator),
        )
        for layer in range(config["num_layers"])
        for target in ("to_q", "to_out.0")
    }
    fields = {
        "rank": rank,
        "alpha": rank,
        "targets": ("to_q", "to_out.0"),
        "base_fingerprint": fingerprint(base, BASE_PARTS),
        **card,
    }
    return write_adapter(pairs, folder, card=toy_card(**fields))


@pytest.fixture(scope="module")
def adapters(nano_base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Share]:
    folder = tmp_path_factory.mktemp("adapters")
    return [
        Share(adapter_of(nano_base, folder / str(seed), seed, rank=2 + 2 * seed), weight)
        for seed, weight in enumerate(WEIGHTS_OF)
    ]


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a transformer's folder."""
    found: dict[str, torch.Tensor] = {}
    for file in folder.glob("*.safetensors"):
        found |= load_file(file)
    return found


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_weights_are_the_sum_rounded_once_and_all_others_keep_their_bits(
    nano_base: Path, tmp_path: Path, dtype: DType
) -> None:
    base = base_in(dtype, nano_base, tmp_path / "base")
    shares = [
        Share(adapter_of(base, tmp_path / str(seed), seed, rank=2 + 2 * seed), weight)
        for seed, weight in enumerate(WEIGHTS_OF)
    ]
    found = bake(base, shares, tmp_path / "out", form=SMALL)
    before, after = weights_in(base / "transformer"), weights_in(tmp_path / "out" / "transformer")
    pairs = [read_pairs(share.file) for share in shares]
    assert before.keys() == after.keys()
    changed = {f"{module}.weight" for module in pairs[0]}
    assert len(changed) == found.layers
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype == _DTYPES[dtype]
        if name not in changed:
            assert torch.equal(after[name].view(torch.uint8), tensor.view(torch.uint8))
            continue
        module = name.removesuffix(".weight")
        exact = tensor.double()
        for weight, part in zip(WEIGHTS_OF, pairs, strict=True):
            exact += weight * (part[module].b_or.double() @ part[module].a_ri.double())
        if dtype == "float32":
            torch.testing.assert_close(after[name].double(), exact, atol=1e-7, rtol=1e-6)
        else:  # half precision hides what float32 rounds off, but for numbers between two others
            rounded = exact.float().to(tensor.dtype)
            assert (after[name] != rounded).double().mean() < 1e-3
            torch.testing.assert_close(after[name], rounded)


def test_one_adapter_is_fused_bit_for_bit(
    nano_base: Path, tmp_path: Path, adapters: list[Share]
) -> None:
    bake(nano_base, [Share(adapters[0].file, 0.75)], tmp_path / "out")
    before = weights_in(nano_base / "transformer")
    after = weights_in(tmp_path / "out" / "transformer")
    for module, pair in read_pairs(adapters[0].file).items():
        name = f"{module}.weight"
        expected = torch.addmm(before[name], 0.75 * pair.b_or, pair.a_ri)
        assert torch.equal(after[name], expected)


def test_stock_diffusers_loads_the_folder_and_the_transformer_alone(
    nano_base: Path, tmp_path: Path, adapters: list[Share]
) -> None:
    found = bake(nano_base, adapters, tmp_path / "out", form=SMALL)
    assert found.files > 1
    alone, info = CogVideoXTransformer3DModel.from_pretrained(
        tmp_path / "out" / "transformer", output_loading_info=True
    )
    assert not any(info.values())
    pipeline = CogVideoXPipeline.from_pretrained(tmp_path / "out")
    written = weights_in(tmp_path / "out" / "transformer")
    for model in (alone, pipeline.transformer):
        assert all(torch.equal(model.state_dict()[name], written[name]) for name in written)


@torch.no_grad()
def test_it_generates_what_diffusers_generates_with_the_adapters_fused(
    nano_base: Path, tmp_path: Path, adapters: list[Share]
) -> None:
    bake(nano_base, adapters, tmp_path / "out")
    fused = CogVideoXPipeline.from_pretrained(nano_base)
    for number, share in enumerate(adapters):
        fused.load_lora_weights(share.file.parent, adapter_name=f"number_{number}")
    fused.set_adapters(["number_0", "number_1"], list(WEIGHTS_OF))
    fused.fuse_lora()
    videos = []
    for pipeline in (fused, CogVideoXPipeline.from_pretrained(tmp_path / "out")):
        pipeline.set_progress_bar_config(disable=True)
        videos.append(
            pipeline(
                "a large red circle moves left",
                num_inference_steps=4,
                generator=torch.Generator().manual_seed(5),
                output_type="pt",
            ).frames
        )
    base = CogVideoXPipeline.from_pretrained(nano_base).transformer.state_dict()
    name = "transformer_blocks.0.attn1.to_q.weight"
    assert (pipeline.transformer.state_dict()[name] - base[name]).abs().max() > 1e-3
    torch.testing.assert_close(videos[1], videos[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("member", MEMBERS, ids=str)
def test_every_member_of_the_family_is_baked_its_projection_of_patches_too(
    member: Member, base_of: BaseOf, tmp_path: Path
) -> None:
    base = base_of(member)
    facts = read_facts(base)
    targets = ("to_k", "proj") if member.patch_t else ("to_k",)
    sizes = linear_sizes(facts)
    generator = torch.Generator().manual_seed(0)
    pairs = {
        module: LoraPair(
            torch.randn((2, sizes[module].inputs), generator=generator),
            torch.randn((sizes[module].outputs, 2), generator=generator),
        )
        for module in adapted_modules(facts.layers, targets, patch_t=facts.patch_t)
    }
    scale = next(iter(facts.variant.image_scales), None)
    fields = {"rank": 2, "alpha": 2, "targets": targets, "image_latent_scale": scale}
    card = toy_card(base_fingerprint=fingerprint(base, BASE_PARTS), **fields)
    file = write_adapter(pairs, tmp_path / "adapter", card=card)
    found = bake(base, [Share(file, 0.5)], tmp_path / "out", form=Form(shard_bytes=50_000))
    assert found.files > 1
    state = CogVideoXTransformer3DModel.from_pretrained(found.folder / "transformer").state_dict()
    before = CogVideoXTransformer3DModel.from_pretrained(base / "transformer").state_dict()
    changed = {name for name in state if not torch.equal(state[name], before[name])}
    assert changed == {f"{module}.weight" for module in pairs}
    for module, pair in pairs.items():
        expected = before[f"{module}.weight"] + 0.5 * (pair.b_or @ pair.a_ri)
        torch.testing.assert_close(state[f"{module}.weight"], expected)


def test_a_session_that_fuses_has_the_same_bits(
    nano_base: Path, tmp_path: Path, adapters: list[Share]
) -> None:
    bake(nano_base, adapters, tmp_path / "out")
    session = Session.open(nano_base, dtype="float32")
    for number, share in enumerate(adapters):
        session.attach(str(number), share.file)
    session.use({str(number): share.weight for number, share in enumerate(adapters)})
    session.fuse()
    baked = Session.open(tmp_path / "out", dtype="float32")
    written = weights_in(tmp_path / "out" / "transformer")
    held = dict(session.transformer.named_parameters())
    assert all(torch.equal(held[name], written[name]) for name in written if name in held)
    assert sum(name in held for name in written) > 100
    assert baked.facts == session.facts


def test_baking_what_was_merged_is_baking_the_parts(
    nano_base: Path, tmp_path: Path, adapters: list[Share]
) -> None:
    merged = merge(adapters, tmp_path / "merged")
    bake(nano_base, adapters, tmp_path / "parts")
    bake(nano_base, [Share(merged.path)], tmp_path / "sum")
    parts, whole = (weights_in(tmp_path / name / "transformer") for name in ("parts", "sum"))
    assert all(torch.equal(parts[name], whole[name]) for name in parts)


def test_the_size_of_files_decides_how_many_there_are(
    nano_base: Path, tmp_path: Path, adapters: list[Share]
) -> None:
    one = bake(nano_base, adapters, tmp_path / "one")
    many = bake(nano_base, adapters, tmp_path / "many", form=SMALL)
    assert one.files == 1
    assert [file.name for file in (one.folder / "transformer").glob("*.safetensors")] == [WEIGHTS]
    assert many.files == len(list((many.folder / "transformer").glob("*.safetensors"))) > 3
    first, second = (weights_in(found.folder / "transformer") for found in (one, many))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_other_parts_are_the_bases_own_and_only_weights_are_shared(
    nano_base: Path, tmp_path: Path, adapters: list[Share]
) -> None:
    bake(nano_base, adapters, tmp_path / "linked")
    bake(nano_base, adapters, tmp_path / "copied", form=Form(linked=False))
    others = ("vae", "text_encoder", "tokenizer", "scheduler")
    for name in ("linked", "copied"):
        assert fingerprint(tmp_path / name, others) == fingerprint(nano_base, others)
        for file in (tmp_path / name).rglob("*"):
            source = nano_base / file.relative_to(tmp_path / name)
            if file.is_file() and source.is_file():
                is_shared = name == "linked" and file.suffix == ".safetensors"
                is_shared &= file.parent.name != "transformer"
                assert file.samefile(source) == is_shared


def test_weights_behind_links_and_on_other_disks_come_over_as_files(
    nano_base: Path, tmp_path: Path, adapters: list[Share], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "snapshot"  # the hub's cache holds links to its blobs
    for file in nano_base.rglob("*"):
        target = base / file.relative_to(nano_base)
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.is_file():
            target.symlink_to(file)
    bake(base, adapters, tmp_path / "linked")
    assert not any(file.is_symlink() for file in (tmp_path / "linked").rglob("*"))

    def other_disk(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", other_disk)
    bake(base, adapters, tmp_path / "copied")
    vae = "vae/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "linked" / vae).samefile(nano_base / vae)
    assert not (tmp_path / "copied" / vae).samefile(nano_base / vae)
    assert sha256_file(tmp_path / "copied" / vae) == sha256_file(nano_base / vae)


def test_the_transformer_alone_is_written_when_asked_for(
    nano_base: Path, tmp_path: Path, adapters: list[Share]
) -> None:
    bake(nano_base, adapters, tmp_path / "out", form=Form(whole=False))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        PROVENANCE_FILE,
        "transformer",
    ]


def test_the_folder_says_what_it_was_made_of(
    nano_base: Path, tmp_path: Path, adapters: list[Share]
) -> None:
    found = bake(nano_base, adapters, tmp_path / "out")
    written = read_document(tmp_path / "out" / PROVENANCE_FILE, Provenance)
    assert written == found.provenance
    assert written.base_fingerprint == fingerprint(nano_base, BASE_PARTS)
    assert [(part.sha256, part.weight) for part in written.adapters] == [
        (sha256_file(share.file), share.weight) for share in adapters
    ]
    assert (written.code, written.image_latent_scale) == (own_version(), None)


def test_progress_counts_tensors(nano_base: Path, tmp_path: Path, adapters: list[Share]) -> None:
    told: list[tuple[int, int]] = []
    bake(nano_base, adapters, tmp_path / "out", progress=lambda *done: told.append(done))
    total = len(weights_in(nano_base / "transformer"))
    assert told == [(number, total) for number in range(1, total + 1)]


def test_another_base_is_refused_naming_both(
    nano_base: Path, tmp_path: Path, adapters: list[Share]
) -> None:
    other = base_in("float16", nano_base, tmp_path / "other")
    with pytest.raises(IntegrityError) as caught:
        bake(other, adapters, tmp_path / "out")
    assert fingerprint(nano_base, BASE_PARTS)[:12] in str(caught.value)
    assert fingerprint(other, BASE_PARTS)[:12] in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_base_that_nobody_fingerprinted_is_refused(nano_base: Path, tmp_path: Path) -> None:
    file = adapter_of(nano_base, tmp_path / "a", 1, base_fingerprint=None)
    with pytest.raises(ConfigError, match="not its bytes; convert it again with the base's folder"):
        bake(nano_base, [Share(file)], tmp_path / "out")


def test_an_adapter_that_lost_its_last_blocks_is_refused(
    nano_base: Path, tmp_path: Path, adapters: list[Share]
) -> None:
    facts = read_facts(nano_base)
    pairs = read_pairs(adapters[0].file)
    last = f"transformer_blocks.{facts.layers - 1}."
    card = read_card(adapters[0].file)
    assert card is not None
    kept = {module: pair for module, pair in pairs.items() if not module.startswith(last)}
    file = write_adapter(kept, tmp_path / "cut", card=card)
    with pytest.raises(
        IntegrityError,
        match=rf"lacks 2 of {2 * facts.layers} layers .* in the base, such as {last}attn1",
    ):
        bake(nano_base, [adapters[1], Share(file)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_layers_that_the_base_does_not_have_are_refused(nano_base: Path, tmp_path: Path) -> None:
    pairs = {
        f"transformer_blocks.{layer}.attn1.to_q": LoraPair(torch.ones(1, 5), torch.ones(5, 1))
        for layer in range(2)
    }
    card = toy_card(rank=1, alpha=1, targets=("to_q",))
    file = write_adapter(pairs, tmp_path / "a", card=card)
    with pytest.raises(IntegrityError, match=r"2 layers .* adds \(5, 5\) to transformer_blocks\.0"):
        bake(nano_base, [Share(file)], tmp_path / "out")


def test_what_is_there_is_left_alone(
    nano_base: Path, tmp_path: Path, adapters: list[Share]
) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="exists already and was left alone"):
        bake(nano_base, adapters, tmp_path / "out")


def test_a_sum_that_half_precision_cannot_hold_is_refused_and_nothing_stays(
    nano_base: Path, tmp_path: Path
) -> None:
    base = base_in("float16", nano_base, tmp_path / "base")
    file = adapter_of(base, tmp_path / "a", 1)
    with pytest.raises(IntegrityError, match=r"not finite in torch.float16 with its adapters"):
        bake(base, [Share(file, 1e8)], tmp_path / "out")
    assert not any(is_aside(path) or path.name == "out" for path in tmp_path.iterdir())


def test_a_disk_that_is_too_small_is_found_out_first(
    nano_base: Path, tmp_path: Path, adapters: list[Share], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ConfigError, match=r"0\.0 GB free, and the transformer takes"):
        bake(nano_base, adapters, tmp_path / "deep" / "out")
    assert not (tmp_path / "deep").exists()


def test_an_adapter_of_first_frames_is_not_baked_into_a_base_of_text(
    nano_base: Path, tmp_path: Path
) -> None:
    file = adapter_of(nano_base, tmp_path / "a", 1, image_latent_scale="multiplied")
    with pytest.raises(
        IntegrityError, match="latents multiplied, and this base has no first frame"
    ):
        bake(nano_base, [Share(file)], tmp_path / "out")
    with pytest.raises(
        IntegrityError, match="latents multiplied, and this base has no first frame"
    ):
        convert(file, tmp_path / "b", base=find_base(str(nano_base)))


def test_a_card_and_metadata_that_contradict_each_other_are_refused(
    nano_base: Path, tmp_path: Path
) -> None:
    file = adapter_of(nano_base, tmp_path / "a", 1)
    told = dict(read_header(file).metadata)
    told["lora_adapter_metadata"] = told["lora_adapter_metadata"].replace(
        '"transformer.lora_alpha":4', '"transformer.lora_alpha":2'
    )
    save_file(load_file(file), file, told)
    with pytest.raises(IntegrityError, match=r"its metadata says 0\.5"):
        merge([Share(file)], tmp_path / "b")
    with pytest.raises(ConfigError, match=r"its metadata says 0\.5"):
        convert(file, tmp_path / "c", base=find_base(str(nano_base)))
