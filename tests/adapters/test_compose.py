"""Merging: the sum that numpy gives, the best approximation that there is, and what is refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import CogVideoXPipeline
from safetensors.torch import load_file, save_file

from cogvx.adapters.card import ADAPTER_FILE, own_version, read_card
from cogvx.adapters.compose import merge, reduced
from cogvx.adapters.export import export_adapter
from cogvx.adapters.shares import Share
from cogvx.adapters.weights import LoraPair, Pairs, read_pairs
from cogvx.adapters.write import write_adapter
from cogvx.digest import sha256_file
from cogvx.errors import ConfigError, IntegrityError
from tests.adapters.toys import toy_adapter, toy_card, trained

OUTPUTS, INPUTS = 12, 10


def drawn(
    seed: int, *, rank: int, targets: tuple[str, ...], layers: int = 2
) -> dict[str, LoraPair]:
    """Random pairs for some targets of every block."""
    generator = torch.Generator().manual_seed(seed)
    return {
        f"transformer_blocks.{layer}.attn1.{target}": LoraPair(
            torch.randn((rank, INPUTS), generator=generator),
            torch.randn((OUTPUTS, rank), generator=generator),
        )
        for layer in range(layers)
        for target in targets
    }


def written(
    folder: Path,
    seed: int,
    *,
    rank: int = 3,
    targets: tuple[str, ...] = ("to_q", "to_k"),
    **card: object,
) -> Path:
    fields = {"rank": rank, "alpha": rank, "targets": targets, **card}
    pairs = drawn(seed, rank=rank, targets=targets)
    return write_adapter(pairs, folder, card=toy_card(**fields))


def dense(pairs: Pairs, module: str) -> np.ndarray:
    """`B A` in float64 by numpy; zero where an adapter leaves the layer alone."""
    if module not in pairs:
        return np.zeros((OUTPUTS, INPUTS))
    pair = pairs[module]
    return pair.b_or.double().numpy() @ pair.a_ri.double().numpy()


def test_merging_equals_the_sum_on_every_layer(tmp_path: Path) -> None:
    first = written(tmp_path / "a", 1, rank=3)
    second = written(tmp_path / "b", 2, rank=5)
    found = merge([Share(first, 0.8), Share(second, -0.5)], tmp_path / "c")
    parts, merged = (read_pairs(first), read_pairs(second)), read_pairs(found.path)
    assert merged.keys() == parts[0].keys()
    for module in merged:
        expected = 0.8 * dense(parts[0], module) - 0.5 * dense(parts[1], module)
        np.testing.assert_allclose(dense(merged, module), expected, atol=1e-6)
        assert merged[module].rank == 8
    assert (found.exact_rank, found.loss.share, found.worst) == (8, 0.0, None)


def test_layers_that_only_one_adapter_has_are_its_own(tmp_path: Path) -> None:
    first = written(tmp_path / "a", 1, rank=3, targets=("to_q", "to_k"))
    second = written(tmp_path / "b", 2, rank=2, targets=("to_k", "to_out.0"))
    found = merge([Share(first, 0.5), Share(second, 2.0)], tmp_path / "c")
    parts, merged = (read_pairs(first), read_pairs(second)), read_pairs(found.path)
    assert found.card.targets == ("to_q", "to_k", "to_out.0")
    assert len(merged) == found.modules == 6
    for module, pair in merged.items():
        expected = 0.5 * dense(parts[0], module) + 2.0 * dense(parts[1], module)
        np.testing.assert_allclose(dense(merged, module), expected, atol=1e-6)
        assert pair.rank == 5


def test_adapters_of_different_layers_alone_need_no_larger_rank(tmp_path: Path) -> None:
    first = written(tmp_path / "a", 1, rank=3, targets=("to_q",))
    second = written(tmp_path / "b", 2, rank=2, targets=("to_k",))
    found = merge([Share(first), Share(second)], tmp_path / "c")
    assert found.card.rank == found.exact_rank == 3
    assert found.loss.share == 0


@pytest.mark.parametrize("rank", [1, 4, 7])
def test_a_lower_rank_is_the_best_one_and_its_error_is_true(tmp_path: Path, rank: int) -> None:
    first, second = written(tmp_path / "a", 1, rank=3), written(tmp_path / "b", 2, rank=5)
    found = merge([Share(first, 0.8), Share(second, -0.5)], tmp_path / "c", rank=rank)
    parts, merged = (read_pairs(first), read_pairs(second)), read_pairs(found.path)
    whole, lost = {}, {}
    for module in merged:
        exact = 0.8 * dense(parts[0], module) - 0.5 * dense(parts[1], module)
        u, values, v_t = np.linalg.svd(exact)
        best = u[:, :rank] @ np.diag(values[:rank]) @ v_t[:rank]
        np.testing.assert_allclose(dense(merged, module), best, atol=1e-5)
        whole[module] = np.linalg.norm(exact)
        lost[module] = np.linalg.norm(exact - dense(merged, module))
    error = np.linalg.norm(list(lost.values())) / np.linalg.norm(list(whole.values()))
    assert found.loss.share == pytest.approx(error, rel=1e-4)
    assert found.worst is not None
    shares = {module: lost[module] / whole[module] for module in whole}
    assert found.worst[0] == max(shares, key=shares.__getitem__)
    assert found.worst[1].share == pytest.approx(max(shares.values()), rel=1e-4)
    assert {pair.rank for pair in merged.values()} == {rank} == {found.card.rank}
    assert found.card.warnings == (
        f"reduced to rank {rank}, which lost {found.loss.share:.2%} of what it adds",
    )


def test_a_rank_above_the_width_loses_nothing() -> None:
    (pair,) = drawn(1, rank=30, targets=("to_q",), layers=1).values()
    nearest, loss = reduced(pair, 20)
    assert nearest.rank == min(OUTPUTS, INPUTS)
    assert loss.lost == 0
    expected = pair.b_or @ pair.a_ri
    torch.testing.assert_close(nearest.b_or @ nearest.a_ri, expected, atol=1e-4, rtol=1e-5)


def test_singular_values_far_below_the_largest_are_kept() -> None:
    (pair,) = drawn(1, rank=4, targets=("to_q",), layers=1).values()
    steep = LoraPair(pair.a_ri * torch.logspace(0, -6, 4)[:, None], pair.b_or)
    u, values, v_t = np.linalg.svd(steep.b_or.double().numpy() @ steep.a_ri.double().numpy())
    nearest, loss = reduced(steep, 3)
    assert loss.lost == pytest.approx(values[3], rel=1e-6)
    best = u[:, :3] @ np.diag(values[:3]) @ v_t[:3]
    found = nearest.b_or.double().numpy() @ nearest.a_ri.double().numpy()
    assert np.linalg.norm(found - best) < 1e-6 * values[0]


def test_one_adapter_alone_is_rescaled(tmp_path: Path) -> None:
    file = written(tmp_path / "a", 1)
    found = merge([Share(file, 0.25)], tmp_path / "b")
    before, after = read_pairs(file), read_pairs(found.path)
    for module, pair in before.items():
        delta = after[module].b_or @ after[module].a_ri
        torch.testing.assert_close(delta, 0.25 * (pair.b_or @ pair.a_ri))


def test_a_file_that_is_named_twice_acts_with_both_weights_at_its_own_rank(tmp_path: Path) -> None:
    file = written(tmp_path / "a", 1, rank=3)
    copy = shutil.copytree(tmp_path / "a", tmp_path / "copy") / ADAPTER_FILE
    found = merge([Share(file, 0.5), Share(copy, 0.25)], tmp_path / "b")
    assert found.card.rank == 3
    assert [(parent.file, parent.weight) for parent in found.card.parents] == [
        (f"a/{ADAPTER_FILE}", 0.75)
    ]


def test_a_weight_of_zero_adds_neither_rank_nor_a_parent(tmp_path: Path) -> None:
    first, second = written(tmp_path / "a", 1), written(tmp_path / "b", 2)
    found = merge([Share(first, 1.0), Share(second, 0.0)], tmp_path / "c")
    assert found.card.rank == 3
    assert [parent.sha256 for parent in found.card.parents] == [sha256_file(first)]
    with pytest.raises(ConfigError, match="nothing would change"):
        merge([Share(first, 1.0), Share(first, -1.0), Share(second, 0.0)], tmp_path / "d")


def test_the_card_says_what_was_merged_and_what_all_agree_on(tmp_path: Path) -> None:
    first = written(tmp_path / "a", 1, size="49x480x720", fps=8, base_revision="abc")
    second = written(tmp_path / "b", 2, size="49x480x720", fps=16, base_revision="abc")
    found = merge([Share(first, 0.8), Share(second, 0.5)], tmp_path / "style")
    card = read_card(found.path)
    assert card == found.card
    assert (card.name, card.origin, card.rank, card.alpha) == ("style", "merged", 6, 6)
    assert (card.run, card.recipe, card.manifest, card.steps) == (None, None, None, None)
    assert (card.base_path, card.base_revision, card.base_fingerprint) == ("base", "abc", "f" * 64)
    assert (card.size, card.fps, card.code) == ("49x480x720", None, own_version())
    assert [(parent.sha256, parent.weight) for parent in card.parents] == [
        (sha256_file(first), 0.8),
        (sha256_file(second), 0.5),
    ]


def test_merged_files_merge_again(tmp_path: Path) -> None:
    files = [written(tmp_path / name, seed) for seed, name in enumerate("abc")]
    inner = merge([Share(files[0], 0.5), Share(files[1], 2.0)], tmp_path / "ab")
    found = merge([Share(inner.path, 2.0), Share(files[2], -1.0)], tmp_path / "abc")
    parts, merged = [read_pairs(file) for file in files], read_pairs(found.path)
    for module in merged:
        weighed = zip((1.0, 4.0, -1.0), parts, strict=True)
        expected = sum(weight * dense(pairs, module) for weight, pairs in weighed)
        np.testing.assert_allclose(dense(merged, module), expected, atol=1e-5)


def test_the_same_parts_give_the_same_bytes(tmp_path: Path) -> None:
    shares = [Share(written(tmp_path / name, seed)) for seed, name in enumerate("ab")]
    for rank in (None, 4):
        first = merge(shares, tmp_path / f"1-{rank}", name="x", rank=rank)
        again = merge(shares, tmp_path / f"2-{rank}", name="x", rank=rank)
        assert first.path.read_bytes() == again.path.read_bytes()


def test_progress_is_told_layer_by_layer(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    merge(
        [Share(written(tmp_path / "a", 1))],
        tmp_path / "b",
        progress=lambda *done: told.append(done),
    )
    assert told == [(number, 4) for number in (1, 2, 3, 4)]


def bare(file: Path, folder: Path) -> Path:
    """The file without its card."""
    folder.mkdir()
    metadata = {"lora_adapter_metadata": '{"transformer.r": 3, "transformer.lora_alpha": 3}'}
    save_file(load_file(file), folder / ADAPTER_FILE, metadata=metadata)
    return folder / ADAPTER_FILE


def test_everything_that_cannot_be_put_together_is_said_at_once(tmp_path: Path) -> None:
    first = written(tmp_path / "a", 1)
    other = written(tmp_path / "b", 2, base_path="elsewhere", base_fingerprint="e" * 64)
    scaled = written(tmp_path / "c", 3, image_latent_scale="raw")
    cardless = bare(first, tmp_path / "d")
    with pytest.raises(ConfigError) as caught:
        merge([Share(file) for file in (first, other, scaled, cardless)], tmp_path / "out")
    text = str(caught.value)
    assert "3 problem(s)" in text
    assert (
        f"{other} belongs to the base elsewhere (eeeeeeeeeeee), and {first} to base (ffffffffffff)"
    ) in text
    assert f'{scaled}: image_latent_scale = "raw" is not that of {first}, None' in text
    assert f"{cardless} has no card" in text
    assert not (tmp_path / "out").exists()


def test_bases_whose_bytes_are_unknown_must_have_one_name(tmp_path: Path) -> None:
    known = {"base_fingerprint": None, "base_path": "zai-org/CogVideoX-5b"}
    first, second = written(tmp_path / "a", 1, **known), written(tmp_path / "b", 2, **known)
    assert merge([Share(first), Share(second)], tmp_path / "c").card.base_fingerprint is None
    third = written(tmp_path / "d", 3, base_path="zai-org/CogVideoX-5b")
    card = merge([Share(first), Share(third)], tmp_path / "e").card
    assert card.base_fingerprint is None
    assert "nothing proves that its parts are of one base" in card.warnings[0]
    image = written(tmp_path / "f", 4, **{**known, "base_path": "zai-org/CogVideoX-5b-I2V"})
    elsewhere = written(tmp_path / "g", 5, **{**known, "base_path": "/models/part"})
    for other, path in ((image, "zai-org/CogVideoX-5b-I2V"), (elsewhere, "/models/part")):
        with pytest.raises(ConfigError, match=rf"{path} \(bytes unknown\), and .*CogVideoX-5b \("):
            merge([Share(first), Share(other)], tmp_path / "h")


def test_files_that_are_not_there_and_weights_that_are_none_are_refused(tmp_path: Path) -> None:
    file = written(tmp_path / "a", 1)
    shares = [Share(tmp_path / "none"), Share(file, float("nan")), Share(file, float("inf"))]
    with pytest.raises(ConfigError, match="is no file") as caught:
        merge(shares, tmp_path / "b")
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize("rank", [0, -1, 7])
def test_a_rank_that_the_sum_does_not_have_is_refused(tmp_path: Path, rank: int) -> None:
    shares = [Share(written(tmp_path / "a", 1)), Share(written(tmp_path / "b", 2))]
    with pytest.raises(ConfigError, match=f"--rank = {rank} is no rank of the sum; use 1 to 6"):
        merge(shares, tmp_path / "c", rank=rank)


def test_what_is_there_is_never_replaced(tmp_path: Path) -> None:
    file = written(tmp_path / "a", 1)
    before = file.read_bytes()
    with pytest.raises(ConfigError, match="exists already"):
        merge([Share(file, 0.5)], tmp_path / "a")
    assert file.read_bytes() == before


@pytest.mark.parametrize("rank", [None, 2])
def test_weights_that_float32_cannot_hold_are_a_sentence(tmp_path: Path, rank: int | None) -> None:
    with pytest.raises(IntegrityError, match="not finite with these weights; use smaller ones"):
        merge([Share(written(tmp_path / "a", 1), 1e39)], tmp_path / "b", rank=rank)
    assert not (tmp_path / "b").exists()


@torch.no_grad()
def test_diffusers_generates_with_the_sum_what_it_generates_with_the_parts(
    nano_base: Path, tmp_path: Path
) -> None:
    weights = (0.8, -0.5)
    files = [toy_adapter(nano_base, tmp_path / str(seed), seed=seed) for seed in (1, 2)]
    found = merge(
        [Share(file, weight) for file, weight in zip(files, weights, strict=True)], tmp_path / "sum"
    )

    pipeline = CogVideoXPipeline.from_pretrained(nano_base)
    pipeline.set_progress_bar_config(disable=True)
    for name, file in zip(("first", "second", "sum"), (*files, found.path), strict=True):
        pipeline.load_lora_weights(file.parent, adapter_name=name)

    def video(**at: float) -> torch.Tensor:
        pipeline.set_adapters(list(at), list(at.values()))
        generator = torch.Generator().manual_seed(5)
        return pipeline(
            "a red circle", num_inference_steps=2, generator=generator, output_type="pt"
        ).frames

    parts = video(first=weights[0], second=weights[1])
    torch.testing.assert_close(video(sum=1.0), parts, atol=1e-4, rtol=0)
    assert (video(first=1.0) - parts).abs().max() > 0.01


def test_layers_of_two_widths_are_refused(tmp_path: Path) -> None:
    first = written(tmp_path / "a", 1)
    wider = {
        name: LoraPair(torch.ones(3, INPUTS + 2), pair.b_or)
        for name, pair in drawn(2, rank=3, targets=("to_q", "to_k")).items()
    }
    card = toy_card(rank=3, alpha=3, targets=("to_q", "to_k"))
    second = write_adapter(wider, tmp_path / "b", card=card)
    with pytest.raises(IntegrityError, match=r"different widths .*\(12, 10\) in .*\(12, 12\) in"):
        merge([Share(first), Share(second)], tmp_path / "c")


def test_trained_adapters_merge_at_the_strength_they_were_trained_with(
    nano_base: Path, tmp_path: Path
) -> None:
    transformers = [trained(nano_base, rank=8, alpha=4, seed=seed) for seed in (1, 2)]
    shares = [
        Share(export_adapter(transformer, tmp_path / str(number), card=toy_card()), weight)
        for number, (transformer, weight) in enumerate(zip(transformers, (0.8, 0.5), strict=True))
    ]
    found = merge(shares, tmp_path / "merged")
    merged = read_pairs(found.path)
    for module, pair in merged.items():
        deltas = [
            transformer.get_submodule(module).get_delta_weight("default").detach()
            for transformer in transformers
        ]
        expected = 0.8 * deltas[0] + 0.5 * deltas[1]
        torch.testing.assert_close(pair.b_or @ pair.a_ri, expected, atol=1e-6, rtol=1e-5)
