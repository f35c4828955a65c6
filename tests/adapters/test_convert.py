"""Converting: whatever a file's form, the new file adds scale x B x A to the base's weights."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import CogVideoXPipeline, CogVideoXTransformer3DModel
from peft import LoraConfig as PeftConfig
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from safetensors.torch import load, load_file, save, save_file

from cogvx.adapters.base import Base, find_base
from cogvx.adapters.card import ADAPTER_FILE, read_card
from cogvx.adapters.container import with_metadata
from cogvx.adapters.convert import Target, convert
from cogvx.adapters.formats import read_any
from cogvx.adapters.kohya import KOHYA_FILE
from cogvx.adapters.write import write_adapter
from cogvx.errors import ConfigError, IntegrityError
from cogvx.files import create_bytes, is_aside
from tests.adapters.foreign import (
    ALPHA,
    RANK,
    Trained,
    kohya_state,
    matrices,
    peft_state,
    sat_state,
    written,
)
from tests.adapters.toys import toy_adapter, toy_card
from tests.fixtures.family import MEMBERS, BaseOf

T2V, I2V = MEMBERS[1], MEMBERS[2]


@pytest.fixture
def base(base_of: BaseOf) -> Base:
    return find_base(str(base_of(T2V)))


def of_depth(base_folder: Path, folder: Path, layers: int) -> Base:
    """The toy base's configuration at another depth; there are no weights."""
    for part in ("transformer", "vae", "scheduler"):
        (folder / part).mkdir(parents=True)
        for file in (base_folder / part).glob("*.json"):
            shutil.copy(file, folder / part)
    file = folder / "transformer" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "num_layers": layers}))
    return find_base(str(folder))


def file_deltas(file: Path) -> dict[str, np.ndarray]:
    """B A of a file in diffusers' names, which is what a loader without metadata adds."""
    tensors = load_file(file)
    ends = (".lora_A.weight", ".lora_B.weight")
    return {
        name.removeprefix("transformer.").removesuffix(ends[0]): tensors[
            name.removesuffix(ends[0]) + ends[1]
        ]
        .double()
        .numpy()
        @ tensor.double().numpy()
        for name, tensor in tensors.items()
        if name.endswith(ends[0])
    }


def read_metadata(packed: bytes) -> dict[str, str]:
    """What a file of safetensors says of itself."""
    length = int.from_bytes(packed[:8], "little")
    return json.loads(packed[8 : 8 + length])["__metadata__"]


def assert_close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for module, delta in expected.items():
        assert np.abs(found[module] - delta).max() <= 1e-6 * np.abs(delta).max()


def _sat(folder: Path, trained: Trained) -> Path:
    (folder / "1000").mkdir(parents=True)
    (folder / "latest").write_text("1000")
    others = {"conditioner.embedders.0.transformer.shared.weight": torch.randn(7, 5)}
    state = {"module": {**sat_state(trained), **others}, "iteration": 1000}
    torch.save(state, folder / "1000" / "mp_rank_00_model_states.pt")
    return folder


def _kohya(folder: Path, trained: Trained) -> Path:
    return written(folder, kohya_state(trained, alpha=ALPHA), name="style.safetensors")


def _bare_kohya(folder: Path, trained: Trained) -> Path:
    return written(folder, kohya_state(trained, alpha=None), name="style.safetensors")


def _cogkit(folder: Path, trained: Trained) -> Path:
    return written(folder, peft_state(trained), name="adapter_model.safetensors")


def _peft(folder: Path, trained: Trained) -> Path:
    config = {"r": RANK, "lora_alpha": ALPHA, "target_modules": ["to_q", "to_k"]}
    state = peft_state(trained, prefix="base_model.model.")
    return written(folder, state, name="adapter_model.safetensors", config=config)


def _peft_bin(folder: Path, trained: Trained) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": ALPHA}))
    state = peft_state(trained, prefix="base_model.model.", adapter=".default")
    torch.save(state, folder / "adapter_model.bin")
    return folder


def _old(folder: Path, trained: Trained) -> Path:
    return written(folder, peft_state(trained, prefix="transformer."))


def _new(folder: Path, trained: Trained) -> Path:
    text = json.dumps({"transformer.r": RANK, "transformer.lora_alpha": ALPHA})
    metadata = {"format": "pt", "lora_adapter_metadata": text}
    return written(folder, peft_state(trained, prefix="transformer."), metadata=metadata)


def _finetrainers(folder: Path, trained: Trained) -> Path:
    metadata = {"lora_config": json.dumps({"r": RANK, "lora_alpha": ALPHA})}
    return written(folder, peft_state(trained, prefix="transformer."), metadata=metadata)


def _trained_by_kohya(folder: Path, trained: Trained) -> Path:
    state, metadata = kohya_state(trained, alpha=None), {"ss_network_alpha": str(ALPHA)}
    return written(folder, state, name="style.safetensors", metadata=metadata)


@pytest.mark.parametrize("to", ["diffusers", "kohya"])
@pytest.mark.parametrize("change", ["turned", "exchanged", "one"])
def test_what_was_written_as_large_but_acts_otherwise_is_refused_and_taken_away(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, to: Target
) -> None:
    source = _kohya(tmp_path / "in", Trained(matrices(base.facts), ALPHA / RANK))

    def write_otherwise(path: Path, packed: bytes) -> bool:
        """A disk that keeps every norm, and not what it was given."""
        tensors = load(packed)
        seconds = sorted(name for name in tensors if name.endswith(("lora_B.weight", "up.weight")))
        if change == "exchanged":
            queries = [name for name in tensors if "to_q" in name]
            for name in queries:
                other = name.replace("to_q", "to_k")
                tensors[name], tensors[other] = tensors[other], tensors[name]
        for name in {"turned": seconds, "one": seconds[:1]}.get(change, []):
            tensors[name] = -tensors[name]
        return create_bytes(path, with_metadata(save(tensors), read_metadata(packed)))

    monkeypatch.setattr("cogvx.adapters.convert.create_bytes", write_otherwise)
    with pytest.raises(IntegrityError, match=r"does not act as .* does in \d+ of \d+ layers"):
        convert(source, tmp_path / "out", base=base, to=to)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("build", "form", "said", "alpha"),
    [
        (_sat, "sat", None, 1.0),
        (_sat, "sat", 2.5, 2.5),
        (_kohya, "kohya", None, ALPHA),
        (_bare_kohya, "kohya", 12.0, 12.0),
        (_trained_by_kohya, "kohya", None, ALPHA),
        (_cogkit, "unprefixed", ALPHA, ALPHA),
        (_peft, "unprefixed", None, ALPHA),
        (_peft_bin, "unprefixed", None, ALPHA),
        (_old, "diffusers", ALPHA, ALPHA),
        (_new, "diffusers", None, ALPHA),
        (_new, "diffusers", ALPHA, ALPHA),
        (_finetrainers, "diffusers", None, ALPHA),
    ],
)
def test_the_new_file_adds_scale_times_b_times_a(
    base: Base,
    tmp_path: Path,
    build: Callable[[Path, Trained], Path],
    form: str,
    said: float | None,
    alpha: float,
) -> None:
    trained = Trained(matrices(base.facts), alpha / RANK)
    source = build(tmp_path / "in", trained)
    made = convert(source, tmp_path / "out", base=base, alpha=said)
    assert made.file == tmp_path / "out" / ADAPTER_FILE
    assert_close(file_deltas(made.file), trained.deltas())
    assert (made.form, made.alpha, made.rank) == (form, alpha, RANK)
    assert made.strength == pytest.approx(1, abs=1e-6)
    norm = np.sqrt(sum((delta**2).sum() for delta in trained.deltas().values()))
    assert made.norm == pytest.approx(norm, rel=1e-9)
    assert not [path for path in tmp_path.rglob("*") if is_aside(path)]


@pytest.mark.parametrize("metadata", [True, False])
def test_plain_diffusers_gives_a_converted_checkpoint_of_sat_its_strength(
    base: Base, base_of: BaseOf, tmp_path: Path, metadata: bool
) -> None:
    trained = Trained(matrices(base.facts), 1 / RANK)
    made = convert(_sat(tmp_path / "in", trained), tmp_path / "out", base=base)
    if not metadata:
        save_file(load_file(made.file), made.file)
    model = CogVideoXTransformer3DModel.from_pretrained(base_of(T2V), subfolder="transformer")
    state, told = CogVideoXPipeline.lora_state_dict(str(made.file), return_lora_metadata=True)
    CogVideoXPipeline.load_lora_into_transformer(state, transformer=model, metadata=told)
    layers = {name: part for name, part in model.named_modules() if isinstance(part, LoraLayer)}
    found = {
        name: layer.get_delta_weight(*layer.active_adapters).detach().double().numpy()
        for name, layer in layers.items()
    }
    assert found.keys() == trained.deltas().keys()
    for name, delta in trained.deltas().items():
        assert np.abs(found[name] - delta).max() <= 1e-6 * np.abs(delta).max()


@pytest.mark.parametrize(
    ("prefix", "nest"),
    [
        ("model.diffusion_model.", lambda state: {"module": state}),
        ("model.diffusion_model.", lambda state: {"state_dict": state}),
        ("model.diffusion_model.", lambda state: {"model": {"state_dict": state}}),
        ("model.diffusion_model.", lambda state: state),
        ("diffusion_model.", lambda state: {"module": state}),
        ("module.model.diffusion_model.", lambda state: {"module": state, "optimizer": None}),
        ("", lambda state: state),
    ],
)
def test_sat_checkpoints_are_found_in_whatever_nesting(
    base: Base, tmp_path: Path, prefix: str, nest: Callable[[object], object]
) -> None:
    trained = Trained(matrices(base.facts, dtype=torch.bfloat16), 1 / RANK)
    torch.save(nest(sat_state(trained, prefix=prefix)), tmp_path / "lora.pt")
    made = convert(tmp_path / "lora.pt", tmp_path / "out", base=base)
    assert_close(file_deltas(made.file), trained.deltas())


@pytest.mark.parametrize(("layers", "tensors"), [(30, 240), (42, 336), (3, 24)])
def test_sat_holds_eight_tensors_for_each_of_the_bases_layers(
    base_of: BaseOf, tmp_path: Path, layers: int, tensors: int
) -> None:
    base = of_depth(base_of(T2V), tmp_path / "base", layers)
    state = sat_state(Trained(matrices(base.facts, rank=2), 0.5))
    torch.save({"module": state}, tmp_path / "lora.pt")
    made = convert(tmp_path / "lora.pt", tmp_path / "out", base=base)
    assert (made.layers, made.tensors, len(load_file(made.file))) == (layers, tensors, tensors)
    lost = f"model.diffusion_model.transformer.layers.{layers - 1}.attention.dense.matrix_B.0"
    del state[lost]
    torch.save({"module": state}, tmp_path / "lora.pt")
    with pytest.raises(ConfigError, match=f"1 of {tensors} tensors are missing: {lost}"):
        convert(tmp_path / "lora.pt", tmp_path / "other", base=base)
    assert not (tmp_path / "other").exists()


def test_kohya_form_acts_alike_in_loaders_that_read_alpha_and_that_do_not(
    base: Base, tmp_path: Path
) -> None:
    trained = Trained(matrices(base.facts), ALPHA / RANK)
    ours = convert(_new(tmp_path / "in", trained), tmp_path / "ours", base=base)
    made = convert(ours.file, tmp_path / "kohya", base=base, to="kohya")
    assert made.file.name == KOHYA_FILE
    tensors = load_file(made.file)
    assert len(tensors) == 3 * len(trained.matrices)
    for (layer, part), (a_ri, b_or) in trained.matrices.items():
        stem = f"lora_unet__transformer_blocks_{layer}_attn1_{part.replace('.', '_')}"
        down, up = tensors[f"{stem}.lora_down.weight"], tensors[f"{stem}.lora_up.weight"]
        assert tensors[f"{stem}.alpha"].item() == down.shape[0]
        expected = trained.scale * (b_or.double() @ a_ri.double())
        torch.testing.assert_close(up.double() @ down.double(), expected, rtol=1e-5, atol=1e-6)
    again = convert(made.file, tmp_path / "again", base=base)
    first, last = load_file(ours.file), load_file(again.file)
    assert first.keys() == last.keys()
    assert all(torch.equal(first[name], last[name]) for name in first)


def test_more_than_attention_is_converted(base: Base, tmp_path: Path) -> None:
    facts, generator = base.facts, torch.Generator().manual_seed(0)
    wide = {
        "ff.net.0.proj": (facts.width, 4 * facts.width),
        "ff.net.2": (4 * facts.width, facts.width),
        "norm1.linear": (facts.time_dim, 6 * facts.width),
    }
    state = kohya_state(Trained(matrices(facts), 1.0), alpha=ALPHA)
    expected = Trained(matrices(facts), ALPHA / RANK).deltas()

    def add(module: str, inputs: int, outputs: int) -> None:
        a_ri = torch.randn((RANK, inputs), generator=generator)
        b_or = torch.randn((outputs, RANK), generator=generator)
        stem = "lora_unet__" + module.replace(".", "_")
        state.update({f"{stem}.lora_down.weight": a_ri, f"{stem}.lora_up.weight": b_or})
        state[f"{stem}.alpha"] = torch.tensor(ALPHA)
        expected[module] = ALPHA / RANK * (b_or.double() @ a_ri.double()).numpy()

    for layer in range(facts.layers):
        for end, (inputs, outputs) in wide.items():
            add(f"transformer_blocks.{layer}.{end}", inputs, outputs)
    add("proj_out", facts.width, facts.out_channels * facts.patch**2)
    made = convert(written(tmp_path / "in", state, name="a.safetensors"), tmp_path / "o", base=base)
    assert set(made.card.targets) == {"to_q", "to_k", "to_v", "to_out.0", "proj_out", *wide}
    assert_close(file_deltas(made.file), expected)


def test_lower_ranks_are_padded_with_zeros_and_add_the_same(base: Base, tmp_path: Path) -> None:
    low, high = matrices(base.facts, rank=2), matrices(base.facts, rank=5)
    mixed = {place: (low if place[1] == "to_q" else high)[place] for place in high}
    trained = Trained(mixed, 1.0)
    scales = {place: 3.0 / a_ri.shape[0] for place, (a_ri, _) in mixed.items()}
    expected = {
        name: delta * scale
        for (name, delta), scale in zip(trained.deltas().items(), scales.values(), strict=True)
    }
    state = kohya_state(trained, alpha=3.0)
    made = convert(written(tmp_path / "in", state, name="a.safetensors"), tmp_path / "o", base=base)
    assert made.rank == 5
    assert_close(file_deltas(made.file), expected)
    assert "ranks differ from 2 to 5" in made.notes[0]
    with safe_open(made.file, framework="pt") as opened:
        assert json.loads(opened.metadata()["lora_adapter_metadata"])["transformer.r"] == 5


@pytest.mark.parametrize(
    "changes",
    [
        {"lora_alpha": 16},
        {"use_rslora": True},
        {"rank_pattern": {"to_q": 2}},
        {"alpha_pattern": {"to_k": 1, "transformer_blocks.1.attn1.to_v": 5}},
        {"alpha_pattern": {"^transformer_blocks.0.attn1.to_k": 7}, "rank_pattern": {"to_k": 3}},
    ],
)
@pytest.mark.parametrize("prefixed", [True, False])
def test_strength_is_what_peft_itself_makes_of_its_configuration(
    base: Base, base_of: BaseOf, tmp_path: Path, changes: dict[str, object], prefixed: bool
) -> None:
    model = CogVideoXTransformer3DModel.from_pretrained(base_of(T2V), subfolder="transformer")
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    settings = {"r": 4, "lora_alpha": 2, "target_modules": targets, **changes}
    model.add_adapter(PeftConfig(**settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_()
    if prefixed:
        layers = {
            name.replace(".default.", "."): parameter.detach()
            for name, parameter in model.named_parameters()
            if ".lora_" in name
        }
        CogVideoXPipeline.save_lora_weights(
            tmp_path,
            transformer_lora_layers=layers,
            transformer_lora_adapter_metadata={
                key: sorted(value) if isinstance(value, set) else value
                for key, value in model.peft_config["default"].to_dict().items()
            },
        )
    else:
        model.save_lora_adapter(tmp_path)
    found = read_any(tmp_path, alpha=None, facts=base.facts)
    assert found.form == ("diffusers" if prefixed else "unprefixed")
    parts = {name: part for name, part in model.named_modules() if isinstance(part, LoraLayer)}
    assert found.pairs.keys() == parts.keys()
    for name, layer in parts.items():
        expected = layer.get_delta_weight("default").detach()
        pair = found.pairs[name]
        torch.testing.assert_close(pair.b_or @ pair.a_ri, expected, rtol=1e-5, atol=1e-6)


def test_an_alpha_that_nobody_recorded_is_asked_for(base: Base, tmp_path: Path) -> None:
    trained = Trained(matrices(base.facts), 1.0)
    for number, build in enumerate((_old, _bare_kohya, _cogkit)):
        source = build(tmp_path / str(number), trained)
        with pytest.raises(ConfigError, match="--alpha is missing: nothing in the file records"):
            convert(source, tmp_path / "out", base=base)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("build", [_new, _kohya, _peft, _finetrainers])
def test_an_alpha_that_contradicts_the_file_names_both(
    base: Base, tmp_path: Path, build: Callable[[Path, Trained], Path]
) -> None:
    source = build(tmp_path / "in", Trained(matrices(base.facts), 1.0))
    with pytest.raises(ConfigError, match=r"--alpha = 64.0 contradicts the file, .* says 3; leave"):
        convert(source, tmp_path / "out", base=base, alpha=64.0)


def test_saying_the_trained_alpha_of_our_own_file_is_refused_with_the_reason(
    nano_base: Path, tmp_path: Path
) -> None:
    ours = toy_adapter(nano_base, tmp_path)
    with pytest.raises(ConfigError, match="what it was trained with is multiplied into it"):
        convert(ours, tmp_path / "out", base=find_base(str(nano_base)), alpha=4)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_an_alpha_that_is_none_is_refused(base: Base, tmp_path: Path, alpha: float) -> None:
    source = _old(tmp_path / "in", Trained(matrices(base.facts), 1.0))
    with pytest.raises(ConfigError, match="is no alpha; use a number above 0"):
        convert(source, tmp_path / "out", base=base, alpha=alpha)


def test_all_that_is_wrong_is_told_at_once(base: Base, tmp_path: Path) -> None:
    state = kohya_state(Trained(matrices(base.facts), 1.0), alpha=None)
    stem = "lora_unet__transformer_blocks_0_attn1_to_"
    del state[f"{stem}q.lora_up.weight"]
    state[f"{stem}k.lora_down.weight"] = torch.ones(RANK, 5)
    state[f"{stem}v.lora_down.weight"] = torch.ones(RANK, base.facts.width, dtype=torch.int32)
    state["lora_te_text_model_q.lora_down.weight"] = torch.ones(1, 1)
    state["lora_unet__transformer_blocks_0_attn1_to_v.dora_scale"] = torch.ones(1)
    source = written(tmp_path / "in", state, name="a.safetensors")
    with pytest.raises(ConfigError) as caught:
        convert(source, tmp_path / "out", base=base)
    text = str(caught.value)
    assert "1 of 16 tensors are missing" in text
    assert f"{stem}q.lora_up.weight" in text
    assert "2 tensors belong to no module: lora_te_text_model_q.lora_down.weight" in text
    assert "to_v.dora_scale" in text
    assert f"{stem}k.lora_down.weight is 6 x 5 and its partner 32 x 6" in text
    assert "is of I32, which no adapter is" in text
    assert "--alpha is missing" in text
    assert not (tmp_path / "out").exists()


def test_dora_and_expressions_are_refused_and_not_guessed_at(base: Base, tmp_path: Path) -> None:
    trained = Trained(matrices(base.facts), 1.0)
    config = {"r": RANK, "lora_alpha": 3, "use_dora": True, "alpha_pattern": {"(a+)+$": 1}}
    name = "adapter_model.safetensors"
    source = written(tmp_path, peft_state(trained), name=name, config=config)
    with pytest.raises(ConfigError) as caught:
        read_any(source, alpha=None, facts=base.facts)
    assert "use_dora = true adds more" in str(caught.value)
    assert 'pattern = "(a+)+$" is an expression' in str(caught.value)
    many = {**config, "use_dora": False, "alpha_pattern": {f"m{n}": 1 for n in range(3000)}}
    written(tmp_path, peft_state(trained), name=name, config=many)
    with pytest.raises(IntegrityError, match="more patterns than a model has layers"):
        read_any(source, alpha=None, facts=base.facts)


def test_a_rank_that_the_matrices_do_not_have_is_refused(base: Base, tmp_path: Path) -> None:
    trained = Trained(matrices(base.facts), 1.0)
    config = {"r": 2 * RANK, "lora_alpha": 3}
    name = "adapter_model.safetensors"
    source = written(tmp_path, peft_state(trained), name=name, config=config)
    with pytest.raises(
        ConfigError, match=r"adapter_config.json says rank 12, and .* is of another"
    ):
        read_any(source, alpha=None, facts=base.facts)


def test_an_adapter_of_another_base_is_refused_by_its_layers(
    base: Base, base_of: BaseOf, tmp_path: Path
) -> None:
    deeper = of_depth(base_of(T2V), tmp_path / "base", 5)
    source = _sat(tmp_path / "in", Trained(matrices(deeper.facts), 1.0))
    with pytest.raises(
        ConfigError, match="layers = 5 is not what CogVideoX-5b has here, which is 2"
    ):
        convert(source, tmp_path / "out", base=base)
    source = _sat(tmp_path / "two", Trained(matrices(base.facts), 1.0))
    with pytest.raises(
        ConfigError, match=r"24 of 40 tensors are missing(.|\n)*layers = 2 is not what"
    ):
        convert(source, tmp_path / "out", base=deeper)


def test_an_adapter_of_another_width_is_refused(base: Base, tmp_path: Path) -> None:
    wider = replace(base.facts, heads=2 * base.facts.heads)
    source = _kohya(tmp_path / "in", Trained(matrices(wider), 1.0))
    wrong = r"attn1_to_q.lora_down.weight \(and 7 more\) is .* needs rank x 32 and 32 x rank$"
    with pytest.raises(ConfigError, match=wrong):
        convert(source, tmp_path / "out", base=base)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused_by_their_module(
    base: Base, tmp_path: Path, value: float
) -> None:
    trained = Trained(matrices(base.facts), 1.0)
    trained.matrices[0, "to_k"][1][3, 2] = value
    with pytest.raises(IntegrityError, match=r"1 layers are not finite: .*\.0\.attn1\.to_k"):
        convert(_kohya(tmp_path / "in", trained), tmp_path / "out", base=base)


def test_an_adapter_without_effect_is_refused(base: Base, tmp_path: Path) -> None:
    trained = Trained(matrices(base.facts), 1.0)
    for _, b_or in trained.matrices.values():
        b_or.zero_()
    for to in ("diffusers", "kohya"):
        with pytest.raises(IntegrityError, match="has no effect"):
            convert(_kohya(tmp_path / "in", trained), tmp_path / "out", base=base, to=to)


def test_the_card_tells_what_it_was_made_from(nano_base: Path, tmp_path: Path) -> None:
    base = find_base(str(nano_base))
    source = _sat(tmp_path / "in", Trained(matrices(base.facts), 1.0))
    made = convert(source, tmp_path / "out", base=base)
    checkpoint = source / "1000" / "mp_rank_00_model_states.pt"
    card = read_card(made.file)
    assert card == made.card
    assert (card.origin, card.rank, card.alpha) == ("converted", RANK, 1)
    assert card.base_fingerprint == base.fingerprint is not None
    assert (card.run, card.recipe, card.manifest, card.steps) == (None, None, None, None)
    (parent,) = card.parents
    assert (parent.file, parent.form) == (checkpoint.name, "sat")
    assert parent.sha256 == hashlib.sha256(checkpoint.read_bytes()).hexdigest()


def test_the_lineage_of_our_own_adapter_goes_on(nano_base: Path, tmp_path: Path) -> None:
    base = find_base(str(nano_base))
    foreign = _new(tmp_path / "in", Trained(matrices(base.facts), 1.0))
    pairs = read_any(foreign, alpha=None, facts=base.facts).pairs
    was = toy_card(rank=RANK, alpha=3, base_fingerprint=base.fingerprint)
    ours = write_adapter(pairs, tmp_path / "ours", card=was)
    card = convert(ours, tmp_path / "kohya", base=base, to="kohya").card
    assert card.origin == "converted"
    kept = ("run", "recipe", "manifest", "steps", "alpha", "rank", "base_path", "name")
    assert all(getattr(card, name) == getattr(was, name) for name in kept)
    assert card.parents[0].sha256 == hashlib.sha256(ours.read_bytes()).hexdigest()
    other = write_adapter(pairs, tmp_path / "other", card=toy_card(rank=RANK, alpha=3))
    with pytest.raises(IntegrityError, match=f"{'f' * 64}.* holds {base.fingerprint}"):
        convert(other, tmp_path / "refused", base=base)


def test_a_base_that_was_only_known_by_its_kind_is_named_once_its_bytes_are(
    nano_base: Path, tmp_path: Path
) -> None:
    base = find_base(str(nano_base))
    source = _new(tmp_path / "in", Trained(matrices(base.facts), 1.0))
    by_kind = replace(base, path="zai-org/CogVideoX-5b", fingerprint=None)
    first = convert(source, tmp_path / "first", base=by_kind)
    assert first.card.base_fingerprint is None
    card = convert(first.file, tmp_path / "second", base=base).card
    assert (card.base_fingerprint, card.base_path) == (base.fingerprint, str(nano_base))


def test_only_1_5_i2v_leaves_open_how_first_frames_were_scaled(
    base_of: BaseOf, tmp_path: Path
) -> None:
    scales = {}
    for number, member in enumerate(MEMBERS):
        base = find_base(str(base_of(member)))
        source = _new(tmp_path / f"in{number}", Trained(matrices(base.facts), 1.0))
        made = convert(source, tmp_path / f"out{number}", base=base)
        scales[member.name] = (made.card.image_latent_scale, bool(made.notes))
    assert scales == {
        "CogVideoX-2b": (None, False),
        "CogVideoX-5b": (None, False),
        "CogVideoX-5b-I2V": ("multiplied", False),
        "CogVideoX1.5-5B": (None, False),
        "CogVideoX1.5-5B-I2V": (None, True),
    }
    made = convert(source, tmp_path / "said", base=base, image_scale="raw")
    assert (made.card.image_latent_scale, made.notes) == ("raw", ())
    again = convert(made.file, tmp_path / "again", base=base, to="kohya")
    assert again.card.image_latent_scale == "raw"
    with pytest.raises(ConfigError, match=r'"divided" is not what .* card allows; use "raw"'):
        convert(made.file, tmp_path / "no", base=base, image_scale="divided")
    with pytest.raises(ConfigError, match='--image-scale = "raw" is not what CogVideoX-5b-I2V'):
        convert(source, tmp_path / "no", base=find_base(str(base_of(I2V))), image_scale="raw")


def test_converting_again_changes_nothing_and_another_file_is_left_alone(
    base: Base, tmp_path: Path
) -> None:
    trained = Trained(matrices(base.facts), 1.0)
    source = _kohya(tmp_path / "in", trained)
    first = convert(source, tmp_path / "out", base=base)
    before = first.file.stat()
    assert convert(source, tmp_path / "out", base=base) == first
    assert first.file.stat() == before
    other = _old(tmp_path / "other", trained)
    with pytest.raises(ConfigError, match="is another file and was left alone"):
        convert(other, tmp_path / "out", base=base, alpha=1.0)
    assert first.file.stat() == before
    with pytest.raises(ConfigError, match="is a file; name a folder"):
        convert(source, first.file, base=base)
    with pytest.raises(ConfigError, match="cannot be written"):
        convert(source, first.file / "below", base=base)


def test_a_folder_must_leave_no_doubt_which_file_is_meant(base: Base, tmp_path: Path) -> None:
    trained = Trained(matrices(base.facts), 1.0)
    with pytest.raises(ConfigError, match="holds no adapter file"):
        read_any(tmp_path, alpha=None, facts=base.facts)
    written(tmp_path, kohya_state(trained, alpha=1.0), name="a.safetensors")
    assert read_any(tmp_path, alpha=None, facts=base.facts).file.name == "a.safetensors"
    written(tmp_path, kohya_state(trained, alpha=1.0), name="b.safetensors")
    with pytest.raises(
        ConfigError, match=r"several adapter files \(a.safetensors, b.safetensors\)"
    ):
        read_any(tmp_path, alpha=None, facts=base.facts)
    with pytest.raises(ConfigError, match="is not there"):
        read_any(tmp_path / "absent", alpha=None, facts=base.facts)


def test_part_of_a_model_in_parallel_is_refused(base: Base, tmp_path: Path) -> None:
    source = _sat(tmp_path / "in", Trained(matrices(base.facts), 1.0))
    (source / "1000" / "mp_rank_01_model_states.pt").touch()
    with pytest.raises(ConfigError, match="one of several parts of a model in parallel"):
        read_any(source, alpha=None, facts=base.facts)


@pytest.mark.parametrize("pointer", ["../in/1000", "2000", "/etc", "", "1000\n../x"])
def test_a_pointer_leads_nowhere_but_to_a_neighbour(
    base: Base, tmp_path: Path, pointer: str
) -> None:
    source = _sat(tmp_path / "in", Trained(matrices(base.facts), 1.0))
    (source / "latest").write_text(pointer)
    with pytest.raises(ConfigError, match="names no checkpoint beside it"):
        read_any(source, alpha=None, facts=base.facts)


def test_two_adapters_in_one_file_are_refused(base: Base, tmp_path: Path) -> None:
    trained = Trained(matrices(base.facts), 1.0)
    other = Trained(matrices(base.facts, seed=1), 1.0)
    both = {**peft_state(trained, prefix="transformer."), **peft_state(other, prefix="ema.")}
    with pytest.raises(IntegrityError, match=r'several adapters, .* "ema." .* "transformer."'):
        read_any(written(tmp_path, both), alpha=1.0, facts=base.facts)
    file = tmp_path / "both.pt"
    torch.save({"module": sat_state(trained), "ema": sat_state(trained)}, file)
    with pytest.raises(ConfigError, match="holds several adapters: module, ema"):
        read_any(file, alpha=None, facts=base.facts)


def test_a_file_of_something_else_is_no_adapter(base: Base, tmp_path: Path) -> None:
    source = written(tmp_path, {"weight": torch.ones(2)})
    with pytest.raises(ConfigError, match="no LoRA of a CogVideoX in a form that is known"):
        read_any(source, alpha=1.0, facts=base.facts)
