"""The description of adapter files, ours and those of other programs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cogvx.adapters.base import find_base
from cogvx.adapters.card import ADAPTER_FILE
from cogvx.adapters.container import read_header
from cogvx.adapters.export import export_adapter
from cogvx.adapters.inspect import describe
from cogvx.adapters.measure import size_of
from cogvx.errors import IntegrityError
from cogvx.variants import read_facts
from tests.adapters.foreign import (
    ALPHA,
    PARTS,
    RANK,
    Trained,
    kohya_state,
    matrices,
    peft_state,
    sat_state,
    written,
)
from tests.adapters.toys import toy_card, trained


@pytest.fixture(scope="module")
def ours(nano_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ours")
    return export_adapter(trained(nano_base, rank=8, alpha=4), folder, card=toy_card())


def rewritten(file: Path, folder: Path, rename: tuple[str, str] = ("", "")) -> Path:
    """The file without metadata, with a part of its names replaced."""
    tensors = {name.replace(*rename): tensor for name, tensor in load_file(file).items()}
    save_file(tensors, folder / ADAPTER_FILE)
    return folder / ADAPTER_FILE


def test_our_file_loads_at_one_and_keeps_what_it_was_trained_with(
    ours: Path, nano_base: Path
) -> None:
    found = describe(ours)
    transformer = trained(nano_base, rank=8, alpha=4)
    assert found.form == "diffusers"
    assert (found.rank, found.loaded_alpha, found.strength) == (8, 8.0, 1.0)
    assert found.card is not None
    assert (found.card.rank, found.card.alpha) == (8, 4)
    assert found.layers == transformer.config.num_layers
    assert found.modules == 4 * found.layers
    assert found.problems == ()


def test_norms_are_those_of_what_the_trained_adapter_adds(ours: Path, nano_base: Path) -> None:
    found = describe(ours)
    transformer = trained(nano_base, rank=8, alpha=4)
    for number, block in enumerate(transformer.transformer_blocks):
        parts = (block.attn1.to_q, block.attn1.to_k, block.attn1.to_v, block.attn1.to_out[0])
        deltas = torch.cat([part.get_delta_weight("default").flatten() for part in parts])
        assert found.norms[number] == pytest.approx(float(deltas.detach().norm()), rel=1e-5)


def test_a_file_without_metadata_is_told_to_load_at_one(ours: Path, tmp_path: Path) -> None:
    found = describe(rewritten(ours, tmp_path))
    assert found.strength == 1.0
    assert found.card is None
    assert found.problems == ("alpha is not recorded: it loads at 1.0, whatever it was trained at",)


def test_the_alpha_that_metadata_names_is_the_strength(ours: Path, tmp_path: Path) -> None:
    metadata = {"lora_adapter_metadata": '{"transformer.r": 8, "transformer.lora_alpha": 2}'}
    save_file(load_file(ours), tmp_path / ADAPTER_FILE, metadata=metadata)
    found, as_trained = describe(tmp_path / ADAPTER_FILE), describe(ours)
    assert found.strength == 0.25
    assert found.norms[0] == pytest.approx(0.25 * as_trained.norms[0])


def test_a_file_that_a_pipeline_would_ignore_says_so(ours: Path, tmp_path: Path) -> None:
    found = describe(rewritten(ours, tmp_path, ("transformer.t", "t")))
    assert found.form == "unprefixed"
    assert found.strength is None
    assert "loads nothing" in found.problems[0]


def adapted(base: Path, *, alpha: float, rank: int = RANK) -> Trained:
    return Trained(matrices(read_facts(base), rank=rank), alpha / rank)


def block_norms(trained: Trained) -> dict[int, float]:
    """Norms of scale x B A by block, in numpy."""
    squares: dict[int, float] = {}
    for module, delta in trained.deltas().items():
        block = int(module.split(".")[1])
        squares[block] = squares.get(block, 0.0) + float((delta**2).sum())
    return {block: square**0.5 for block, square in squares.items()}


def test_kohya_is_described_at_the_strength_that_its_alphas_give(
    nano_base: Path, tmp_path: Path
) -> None:
    truth = adapted(nano_base, alpha=ALPHA)
    found = describe(written(tmp_path, kohya_state(truth, alpha=ALPHA)))
    assert (found.form, found.rank, found.alpha, found.strength) == ("kohya", RANK, ALPHA, None)
    assert found.alpha_from == "alpha beside each module"
    assert found.norms == pytest.approx(block_norms(truth), rel=1e-6)
    assert found.problems == ("names are kohya's, which diffusers does not read for CogVideoX",)


def test_sat_is_described_at_the_strength_that_sat_gives_it(
    nano_base: Path, tmp_path: Path
) -> None:
    truth = adapted(nano_base, alpha=1.0)
    checkpoint = tmp_path / "1000" / "mp_rank_00_model_states.pt"
    checkpoint.parent.mkdir()
    others = {"first_stage_model.encoder.weight": torch.ones(3)}
    torch.save({"module": {**sat_state(truth), **others}}, checkpoint)
    (tmp_path / "latest").write_text("1000")
    found = describe(tmp_path)
    assert found.path == checkpoint
    assert (found.form, found.rank, found.alpha, found.alpha_from) == ("sat", RANK, 1.0, None)
    assert (found.modules, found.strength) == (4 * found.layers, None)
    assert found.norms == pytest.approx(block_norms(truth), rel=1e-6)
    assert found.problems == ("names are SAT's, which diffusers does not read",)
    assert f"at its usual 1 the strength is 1/{RANK}" in found.notes[1]


def test_peft_is_described_with_its_configuration(nano_base: Path, tmp_path: Path) -> None:
    truth = adapted(nano_base, alpha=ALPHA)
    file = written(
        tmp_path,
        peft_state(truth, prefix="base_model.model."),
        name="adapter_model.safetensors",
        config={"r": RANK, "lora_alpha": ALPHA},
    )
    found = describe(file)
    assert (found.form, found.alpha, found.alpha_from) == (
        "unprefixed",
        ALPHA,
        "adapter_config.json",
    )
    assert found.norms == pytest.approx(block_norms(truth), rel=1e-6)
    assert found.problems == (
        'names lack "transformer.", so a pipeline loads nothing and only warns',
    )


def test_an_alpha_that_is_not_multiplied_in_is_a_problem(nano_base: Path, tmp_path: Path) -> None:
    truth = adapted(nano_base, alpha=ALPHA)
    told = {"transformer.r": RANK, "transformer.lora_alpha": ALPHA}
    metadata = {"lora_adapter_metadata": json.dumps(told)}
    file = written(tmp_path, peft_state(truth, prefix="transformer."), metadata=metadata)
    found = describe(file)
    assert found.strength == 0.5
    assert found.norms == pytest.approx(block_norms(truth), rel=1e-6)
    assert found.problems == (
        "alpha is not multiplied into B: programs that read no metadata apply it at 1.0, not 0.5",
    )


def test_our_card_in_a_file_whose_strength_was_changed_is_a_problem(
    ours: Path, tmp_path: Path
) -> None:
    metadata = dict(read_header(ours).metadata)
    metadata["lora_adapter_metadata"] = '{"transformer.r": 8, "transformer.lora_alpha": 4}'
    save_file(load_file(ours), tmp_path / ADAPTER_FILE, metadata=metadata)
    found = describe(tmp_path / ADAPTER_FILE)
    assert found.problems[0] == (
        "its card says that alpha is multiplied into B, and yet it loads at 0.5"
    )


def test_an_adapter_that_was_never_trained_says_so(nano_base: Path, tmp_path: Path) -> None:
    zero = {
        name: tensor * 0 if ".lora_B." in name else tensor
        for name, tensor in peft_state(adapted(nano_base, alpha=1), prefix="transformer.").items()
    }
    found = describe(written(tmp_path / "all", zero))
    assert "every B is zero, so it changes nothing; was it trained?" in found.problems
    assert set(found.norms.values()) == {0.0}
    assert found.effective_rank is None
    name = "transformer.transformer_blocks.0.attn1.to_q.lora_B.weight"
    one = {**peft_state(adapted(nano_base, alpha=1), prefix="transformer."), name: zero[name]}
    (_, some) = describe(written(tmp_path / "one", one)).problems
    assert some.startswith("1 modules have a B of zeros")


def test_ranks_are_counted_by_what_they_hold(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    a_ri, b_or = torch.randn(9, 20, generator=generator), torch.randn(30, 9, generator=generator)
    b_or = b_or * torch.logspace(0, -2, 9)
    values = np.linalg.svd(b_or.double().numpy() @ a_ri.double().numpy(), compute_uv=False)
    held = np.cumsum(values**2) / np.sum(values**2)
    found = size_of(a_ri, b_or)
    assert found.norm == pytest.approx(float(np.linalg.norm(values)), rel=1e-9)
    assert found.effective_rank == int(np.argmax(held >= 0.99)) + 1
    assert 1 < found.effective_rank < 9


def test_what_is_no_fault_is_a_note(nano_base: Path, tmp_path: Path) -> None:
    card = toy_card(warnings=("the clips are few",))
    file = export_adapter(trained(nano_base), tmp_path, card=card)
    found = describe(file)
    assert found.problems == ()
    assert found.notes == (
        "rank 8 is below 64, which CogVideoX's authors advise at least",
        "the clips are few",
    )


@pytest.mark.parametrize("written_by", ["ours", "kohya", "unprefixed"])
def test_a_file_for_the_base_has_no_problem_with_it(
    nano_base: Path, tmp_path: Path, written_by: str
) -> None:
    base = find_base(str(nano_base))
    truth = adapted(nano_base, alpha=ALPHA)
    if written_by == "ours":
        card = toy_card(base_fingerprint=base.fingerprint)
        file = export_adapter(trained(nano_base), tmp_path, card=card)
    elif written_by == "kohya":
        file = written(tmp_path, kohya_state(truth, alpha=ALPHA))
    else:
        file = written(tmp_path, peft_state(truth))
    assert describe(file, base).problems == describe(file).problems


def test_what_does_not_fit_a_base_is_said(nano_base: Path, tmp_path: Path) -> None:
    base = find_base(str(nano_base))
    file = export_adapter(trained(nano_base), tmp_path / "other", card=toy_card())
    assert describe(file, base).problems == (
        (
            f"its card names the base base (ffffffffffff), and this is {nano_base} "
            f"({base.fingerprint[:12]}, a CogVideoX-5b); use the base that it names"
        ),
    )
    truth = adapted(nano_base, alpha=ALPHA)
    shallow = Trained({key: pair for key, pair in truth.matrices.items() if key[0] < 3}, 1.0)
    file = written(tmp_path / "shallow", kohya_state(shallow, alpha=1.0))
    assert len(describe(file).problems) == 1
    (_, missing, layers) = describe(file, base).problems
    assert f"{8 * 3} of {8 * 6} tensors are missing" in missing
    assert "layers = 3 is not what CogVideoX-5b has here, which is 6" in layers


@pytest.mark.parametrize(("layers", "tensors"), [(30, 240), (42, 336)])
def test_one_missing_key_is_named_at_the_published_depths(
    tmp_path: Path, layers: int, tensors: int
) -> None:
    pairs = {
        (layer, part): (torch.ones(1, 2), torch.ones(2, 1))
        for layer in range(layers)
        for part in PARTS
    }
    state = peft_state(Trained(pairs, 1.0), prefix="transformer.")
    assert len(state) == tensors
    assert len(describe(written(tmp_path / "whole", state)).problems) == 1
    for end in ("A", "B"):
        del state[f"transformer.transformer_blocks.7.attn1.to_k.lora_{end}.weight"]
        (_, problem) = describe(written(tmp_path / end, state)).problems
        assert "transformer_blocks.7.attn1.to_k" in problem
    assert f"2 of {tensors} tensors are missing, {layers} layers x 4 targets x 2" in problem


def test_a_card_that_names_a_published_base_of_another_depth_is_a_problem(
    nano_base: Path, tmp_path: Path
) -> None:
    card = toy_card(base_path="zai-org/CogVideoX-5b")
    found = describe(export_adapter(trained(nano_base), tmp_path, card=card))
    assert found.problems == ("it has 6 layers, and zai-org/CogVideoX-5b has 42",)


def test_a_description_is_one_json_document_even_of_what_is_not_finite(
    ours: Path, tmp_path: Path
) -> None:
    tensors = load_file(ours)
    tensors["transformer.transformer_blocks.0.attn1.to_q.lora_A.weight"][0, 0] = float("nan")
    save_file(tensors, tmp_path / ADAPTER_FILE, metadata=read_header(ours).metadata)
    document = json.loads(describe(tmp_path).model_dump_json())
    assert document["norms"]["0"] is None
    assert document["norms"]["1"] > 0
    assert document["card"]["name"] == "toy"
    assert document["target_norms"].keys() == {"to_q", "to_k", "to_v", "to_out.0"}


def test_target_norms_and_layer_norms_are_of_the_same_whole(ours: Path) -> None:
    found = describe(ours)
    by_layer, by_target = (
        sum(norm**2 for norm in norms.values()) for norms in (found.norms, found.target_norms)
    )
    assert by_layer == pytest.approx(by_target, rel=1e-9)


def test_faults_are_listed_together(ours: Path, tmp_path: Path) -> None:
    tensors = load_file(ours)
    tensors["transformer.transformer_blocks.0.attn1.to_q.lora_A.weight"][0, 0] = float("inf")
    del tensors["transformer.transformer_blocks.1.attn1.to_k.lora_B.weight"]
    save_file(tensors, tmp_path / ADAPTER_FILE)
    problems = describe(tmp_path / ADAPTER_FILE).problems
    assert [problem.split(":")[0] for problem in problems] == [
        "alpha is not recorded",
        "1 modules have one matrix of two",
        "1 modules are not finite",
    ]


def test_a_file_of_something_else_is_described_as_unknown(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(2)}, tmp_path / ADAPTER_FILE)
    found = describe(tmp_path / ADAPTER_FILE)
    assert (found.form, found.rank, found.modules) == ("unknown", None, 0)
    assert found.problems == ("names are of no kind that is known",)


def test_metadata_that_cannot_be_read_is_refused(ours: Path, tmp_path: Path) -> None:
    metadata = {"lora_adapter_metadata": "not json"}
    save_file(load_file(ours), tmp_path / ADAPTER_FILE, metadata=metadata)
    with pytest.raises(IntegrityError, match="lora_adapter_metadata"):
        describe(tmp_path / ADAPTER_FILE)
