"""The reload check: it passes what is the trained adapter and refuses everything else."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

from cogvx.adapters.card import ADAPTER_FILE, read_card
from cogvx.adapters.export import export_adapter
from cogvx.adapters.verify import verify_export
from cogvx.errors import IntegrityError
from cogvx.model.lora import attach_lora
from cogvx.model.nano.build import build_nano
from cogvx.model.quantise import store_base
from cogvx.recipe_sections import BaseWeights, LoraConfig
from cogvx.shapes import Compression, VideoSize
from cogvx.variants import VARIANTS, BaseFacts, DType, Variant, read_facts
from tests.adapters.toys import toy_card, trained

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def facts(nano_base: Path) -> BaseFacts:
    return read_facts(nano_base)


@pytest.fixture
def exported(nano_base: Path, tmp_path: Path) -> tuple[CogVideoXTransformer3DModel, Path]:
    transformer = trained(nano_base, rank=8, alpha=4)
    return transformer, export_adapter(transformer, tmp_path / "adapter", card=toy_card())


def altered(file: Path, folder: Path, factor: float, ending: str = ".lora_B.weight") -> Path:
    folder.mkdir()
    tensors = {
        name: tensor * factor if name.endswith(ending) else tensor
        for name, tensor in load_file(file).items()
    }
    save_file(tensors, folder / ADAPTER_FILE, metadata={"format": "pt"})
    return folder / ADAPTER_FILE


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(("rank", "alpha"), [(8, 8), (8, 4), (6, 4)])
def test_what_was_exported_is_what_was_trained(
    nano_base: Path, tmp_path: Path, facts: BaseFacts, dtype: DType, rank: int, alpha: int
) -> None:
    transformer = trained(nano_base, rank=rank, alpha=alpha, dtype=dtype)
    card = toy_card(rank=rank, alpha=alpha, base_dtype=dtype)
    file = export_adapter(transformer, tmp_path, card=card)
    check = verify_export(transformer, file, base_folder=nano_base, facts=facts)
    assert check.modules == 4 * facts.layers
    assert check.effect > 0
    assert check.layer_error < 1e-6
    assert check.strength_ratio == pytest.approx(1, abs=1e-6 if dtype == "float32" else 1e-3)


TO_Q = "transformer.transformer_blocks.1.attn1.to_q"
B = ".lora_B.weight"


def negate(tensors: dict[str, torch.Tensor]) -> None:
    """All that it learned, the other way round: norms say nothing."""
    for name, tensor in tensors.items():
        if name.endswith(B):
            tensors[name] = -tensor


def exchange(tensors: dict[str, torch.Tensor]) -> None:
    """Queries where keys belong, in every block."""
    for name in [name for name in tensors if ".to_q." in name]:
        other = name.replace(".to_q.", ".to_k.")
        tensors[name], tensors[other] = tensors[other], tensors[name]


def turn_one(tensors: dict[str, torch.Tensor]) -> None:
    """One layer of all, the other way round."""
    tensors[TO_Q + B] = -tensors[TO_Q + B]


def weaken_one(tensors: dict[str, torch.Tensor]) -> None:
    """One layer a hundredth too weak."""
    tensors[TO_Q + B] = 0.99 * tensors[TO_Q + B]


Change = Callable[[dict[str, torch.Tensor]], None]
# Sizes of B's numbers: after a training, and so early that no output shows it. The least of float16
# are too coarse for a millionth.
AGES = [("float32", 0.2), ("bfloat16", 0.2)]
AGES += [("float32", 1e-6), ("bfloat16", 1e-6), ("float16", 1e-4)]


@pytest.fixture(scope="module", params=AGES, ids=str)
def learned(
    nano_base: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[CogVideoXTransformer3DModel, Path]:
    """An adapter that learned a little or a lot, in a precision, and its file."""
    dtype, size = request.param
    transformer = trained(nano_base, rank=8, alpha=4, dtype=dtype)
    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            if ".lora_B." in name:
                parameter.mul_(size / 0.2)
    card = toy_card(base_dtype=dtype)
    return transformer, export_adapter(transformer, tmp_path_factory.mktemp("one"), card=card)


def test_an_adapter_that_learned_little_is_verified_as_any_other(
    nano_base: Path, facts: BaseFacts, learned: tuple[CogVideoXTransformer3DModel, Path]
) -> None:
    transformer, file = learned
    check = verify_export(transformer, file, base_folder=nano_base, facts=facts)
    assert check.layer_error < 1e-6
    assert check.strength_ratio == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("change", "layers"),
    [(negate, "24 of 24"), (exchange, "12 of 24")]
    + [(change, "1 of 24") for change in (turn_one, weaken_one)],
)
def test_what_is_as_large_but_acts_otherwise_is_refused_in_every_precision_and_at_every_age(
    nano_base: Path,
    facts: BaseFacts,
    learned: tuple[CogVideoXTransformer3DModel, Path],
    tmp_path: Path,
    change: Change,
    layers: str,
) -> None:
    transformer, file = learned
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, tmp_path / ADAPTER_FILE, metadata={"format": "pt"})
    with pytest.raises(IntegrityError, match=f"adds something else to {layers} layers, such as"):
        verify_export(transformer, tmp_path / ADAPTER_FILE, base_folder=nano_base, facts=facts)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_difference_in_a_layer_is_that_of_the_weights_that_peft_would_merge(
    nano_base: Path, facts: BaseFacts, tmp_path: Path, dtype: DType
) -> None:
    transformer = trained(nano_base, rank=8, alpha=4, dtype=dtype)
    file = export_adapter(transformer, tmp_path / "right", card=toy_card(base_dtype=dtype))
    layer = transformer.get_submodule(TO_Q.removeprefix("transformer."))
    assert isinstance(layer, LoraLayer)
    with torch.no_grad():
        before = layer.get_delta_weight("default").double()
        layer.lora_B["default"].weight[0] += 0.05
        after = layer.get_delta_weight("default").double()
    share = float((after - before).norm() / after.norm())
    assert share > 0.01
    with pytest.raises(IntegrityError, match="1 of 24 layers") as caught:
        verify_export(transformer, file, base_folder=nano_base, facts=facts)
    said = re.search(r"off by ([0-9.e+-]+) of", str(caught.value))
    assert said is not None
    assert float(said.group(1)) == pytest.approx(share, rel=0.05)


def test_an_error_leaves_the_trained_transformer_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = toy_facts(VARIANTS[0])
    transformer = toy_transformer(facts)
    other = toy_transformer(dataclasses.replace(facts, text_dim=facts.text_dim + 4))
    other.save_pretrained(tmp_path / "transformer")
    attach_lora(transformer, LoraConfig(rank=4, alpha=2, allow_unusual=True), seed=0)
    card = toy_card(rank=4, alpha=2)
    file = export_adapter(transformer, tmp_path / "adapter", card=card, allow_zero=True)
    moves: list[object] = []
    monkeypatch.setattr(transformer, "to", moves.append)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        verify_export(transformer, file, base_folder=tmp_path, facts=facts)
    assert moves == ["cpu", transformer.device]


def toy_facts(variant: Variant) -> BaseFacts:
    """A member of the family at toy size."""
    channels = 4
    return BaseFacts(
        variant=variant,
        layers=2,
        heads=2,
        head_dim=16,
        in_channels=2 * channels if variant.image_to_video else channels,
        out_channels=channels,
        patch=2,
        patch_t=variant.patch_t,
        text_tokens=6,
        text_dim=8,
        time_dim=16,
        sample_size=VideoSize(9 if variant.patch_t is None else 13, 32, 32),
        compression=Compression(4, 8),
        latent_channels=channels,
        scaling_factor=0.7,
        snr_shift_scale=1.0,
    )


def toy_transformer(facts: BaseFacts) -> CogVideoXTransformer3DModel:
    side = facts.sample_size.height // facts.compression.spatial
    return CogVideoXTransformer3DModel(
        num_attention_heads=facts.heads,
        attention_head_dim=facts.head_dim,
        in_channels=facts.in_channels,
        out_channels=facts.out_channels,
        time_embed_dim=16,
        ofs_embed_dim=16 if facts.variant.has_ofs else None,
        text_embed_dim=facts.text_dim,
        num_layers=facts.layers,
        sample_width=side,
        sample_height=side,
        sample_frames=facts.sample_size.frames,
        patch_size=facts.patch,
        patch_size_t=facts.patch_t,
        max_text_seq_length=facts.text_tokens,
        use_rotary_positional_embeddings=facts.variant.rotary,
        use_learned_positional_embeddings=facts.variant.learned_positions,
    )


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_every_member_of_the_family_can_be_verified(variant: Variant, tmp_path: Path) -> None:
    facts = toy_facts(variant)
    torch.manual_seed(0)
    toy_transformer(facts).save_pretrained(tmp_path / "transformer")
    transformer = CogVideoXTransformer3DModel.from_pretrained(tmp_path, subfolder="transformer")
    attach_lora(transformer, LoraConfig(rank=4, alpha=2, allow_unusual=True), seed=0)
    for name, parameter in transformer.named_parameters():
        if ".lora_B." in name:
            parameter.data.normal_()
    file = export_adapter(transformer, tmp_path / "adapter", card=toy_card(rank=4, alpha=2))
    check = verify_export(transformer, file, base_folder=tmp_path, facts=facts)
    assert check.modules == 8
    assert check.strength_ratio == pytest.approx(1, abs=1e-6)
    assert check.effect > 1e-3


def test_the_trained_transformer_is_left_as_it_was(
    nano_base: Path, facts: BaseFacts, exported: tuple[CogVideoXTransformer3DModel, Path]
) -> None:
    transformer, file = exported
    transformer.train()
    before = {name: tensor.clone() for name, tensor in transformer.state_dict().items()}
    trainable = [name for name, part in transformer.named_parameters() if part.requires_grad]
    random_state = torch.get_rng_state()
    verify_export(transformer, file, base_folder=nano_base, facts=facts)
    after = transformer.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert trainable == [
        name for name, part in transformer.named_parameters() if part.requires_grad
    ]
    assert transformer.training
    assert list(transformer.peft_config) == ["default"]
    assert torch.equal(random_state, torch.get_rng_state())


def times(factor: float) -> Callable[[Tensors], Tensors]:
    """What the adapter adds is multiplied; a norm does not know a sign."""
    return lambda tensors: {
        name: part * factor if ".lora_B." in name else part for name, part in tensors.items()
    }


def without_prefix(tensors: Tensors) -> Tensors:
    return {name.removeprefix("transformer."): part for name, part in tensors.items()}


def without_a_layer(tensors: Tensors) -> Tensors:
    return {name: part for name, part in tensors.items() if "_blocks.0.attn1.to_q" not in name}


def narrow(tensors: Tensors) -> Tensors:
    return {
        name: part[:, :16].clone() if ".lora_A." in name else part[:16].clone()
        for name, part in tensors.items()
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(times(2.0), r"acts at 2\.0000 times", id="it lost alpha"),
        pytest.param(times(0.999), r"0\.9990 times", id="weaker by a thousandth"),
        pytest.param(times(-1.0), "output differs", id="the opposite, as strong"),
        pytest.param(without_prefix, "to 0 modules", id="names without the prefix"),
        pytest.param(without_a_layer, "to {all_but_one} modules", id="a layer is missing"),
        pytest.param(narrow, "does not fit the base", id="for a base of another width"),
    ],
)
def test_a_file_that_is_not_what_was_trained_is_refused(
    change: Callable[[Tensors], Tensors],
    words: str,
    nano_base: Path,
    facts: BaseFacts,
    exported: tuple[CogVideoXTransformer3DModel, Path],
    tmp_path: Path,
) -> None:
    transformer, file = exported
    save_file(change(load_file(file)), tmp_path / ADAPTER_FILE, metadata={"format": "pt"})
    with pytest.raises(IntegrityError, match=words.format(all_but_one=4 * facts.layers - 1)):
        verify_export(transformer, tmp_path / ADAPTER_FILE, base_folder=nano_base, facts=facts)


def test_another_base_is_refused(
    facts: BaseFacts, exported: tuple[CogVideoXTransformer3DModel, Path], tmp_path: Path
) -> None:
    transformer, file = exported
    build_nano(tmp_path / "other", seed=9)
    with pytest.raises(IntegrityError, match="output differs"):
        verify_export(transformer, file, base_folder=tmp_path / "other", facts=facts)


@pytest.mark.parametrize("stored_as", ["float8", "int8"])
def test_over_a_base_in_8_bits_the_reload_is_stored_in_the_same_way(
    nano_base: Path, tmp_path: Path, facts: BaseFacts, stored_as: BaseWeights
) -> None:
    transformer = trained(nano_base, rank=8, alpha=4)
    store_base(transformer, stored_as)
    card = toy_card(base_weights=stored_as)
    file = export_adapter(transformer, tmp_path / "right", card=card)
    check = verify_export(transformer, file, base_folder=nano_base, facts=facts)
    assert check.max_error < 1e-5
    assert check.effect > 0
    assert read_card(file) == card
    with pytest.raises(IntegrityError, match="times the trained strength"):
        verify_export(
            transformer,
            altered(file, tmp_path / "wrong", 1.01),
            base_folder=nano_base,
            facts=facts,
        )
