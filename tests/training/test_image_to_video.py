"""Image-to-video bases are trained from end to end: first frames in, a verified adapter out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cogvx.adapters.card import read_card
from cogvx.errors import ConfigError, IntegrityError
from cogvx.files import read_document, write_document
from cogvx.runs.folder import RunFolder, TrainOutcome
from cogvx.training.__main__ import main
from cogvx.training.loop import accumulate, update
from tests.fixtures.family import IMAGE_MEMBERS, BaseOf, Member
from tests.fixtures.training_runs import adapter_bits, open_trainer

NewRun = Callable[..., Path]
V1, V15 = IMAGE_MEMBERS
SCALES = {V1: None, V15: "raw"}


def run_over(new_run: NewRun, base_of: BaseOf, member: Member, **train: Any) -> Path:
    settings = {"size": member.size, "image_latent_scale": SCALES[member], **train}
    return new_run(base_of(member), **settings)


@pytest.mark.parametrize("member", IMAGE_MEMBERS, ids=str)
def test_a_run_ends_with_a_verified_adapter_whose_card_names_the_scale(
    member: Member, new_run: NewRun, base_of: BaseOf
) -> None:
    roots = [run_over(new_run, base_of, member) for _ in range(2)]
    for root in roots:
        assert main([str(root)]) == 0
    folder = RunFolder(roots[0])
    outcome = read_document(folder.outcome, TrainOutcome)
    assert (outcome.status, outcome.step) == ("completed", 6)
    assert outcome.heldout_before is not None
    assert outcome.heldout_after != outcome.heldout_before
    card = read_card(folder.adapter_file)
    assert card is not None
    assert card.image_latent_scale == {V1: "multiplied", V15: "raw"}[member]
    assert adapter_bits(roots[0]) == adapter_bits(roots[1])


@pytest.mark.parametrize("member", IMAGE_MEMBERS, ids=str)
def test_a_half_precision_base_keeps_a_float32_adapter(
    member: Member, new_run: NewRun, base_of: BaseOf
) -> None:
    trainer = open_trainer(run_over(new_run, base_of, member, dtype="bfloat16"))
    assert trainer.transformer.dtype == torch.bfloat16
    accumulate(trainer.learner, 0)
    assert update(trainer.learner, 0).isfinite()
    assert {parameter.dtype for parameter in trainer.learner.parameters} == {torch.float32}


def test_the_first_frame_and_its_scale_reach_the_gradient(new_run: NewRun, base_of: BaseOf) -> None:
    def gradient(**train: Any) -> torch.Tensor:
        trainer = open_trainer(run_over(new_run, base_of, V15, **train))
        for parameter in trainer.learner.parameters:  # B starts at zero: A would have no gradient
            parameter.data += 0.01
        accumulate(trainer.learner, 0)
        return torch.cat([part.grad.flatten() for part in trainer.learner.parameters])

    seen = gradient(image_dropout=0.0)
    others = [
        gradient(image_dropout=0.999),
        gradient(image_dropout=0.0, image_latent_scale="divided"),
        gradient(image_dropout=0.0, image_latent_scale="multiplied"),
    ]
    for other in others:
        assert (seen - other).norm() > 1e-3 * seen.norm()


def test_a_run_without_first_frames_or_their_scale_is_refused_before_the_base_is_loaded(
    new_run: NewRun, base_of: BaseOf
) -> None:
    with pytest.raises(ConfigError, match=r'missing; use "multiplied", "divided" or "raw"'):
        open_trainer(run_over(new_run, base_of, V15, image_latent_scale=None))
    with pytest.raises(
        ConfigError, match='scale = "raw" is not for CogVideoX-5b-I2V; use "multiplied"'
    ):
        open_trainer(run_over(new_run, base_of, V1, image_latent_scale="raw"))
    root = run_over(new_run, base_of, V15)
    folder = RunFolder(root)
    spec = folder.read_spec()
    folder.record(spec.train[0].images[1]).unlink()
    with pytest.raises(IntegrityError, match=f"lacks 1 record.*{spec.train[0].images[1]}"):
        open_trainer(root)
    bare = [sample.model_copy(update={"images": ()}) for sample in spec.train]
    write_document(folder.spec, spec.model_copy(update={"train": bare, "heldout": ()}))
    with pytest.raises(IntegrityError, match="has 0 noised first frames, so no number 0"):
        accumulate(open_trainer(root).learner, 0)
