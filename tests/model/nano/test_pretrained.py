"""The nano model that the project carries is small, loads like any other, and knows its world."""

import json

import pytest
import torch
from diffusers import CogVideoXPipeline

from cogvx.inference.request import Request
from cogvx.inference.session import Session
from cogvx.model.identity import BASE_PARTS, fingerprint
from cogvx.model.nano.build import FRAMES, SIDE, build_transformer, build_vae
from cogvx.model.nano.carried import CARD_FILE, carried_nano
from cogvx.model.nano.judge import read, right_traits
from cogvx.model.nano.world import draw_scene
from cogvx.pretraining.card import NanoCard, Settings
from cogvx.pretraining.grades import FPS, SAMPLING, Grades, grade
from cogvx.shapes import VideoSize
from cogvx.variants import read_facts


@pytest.fixture(scope="module")
def card() -> NanoCard:
    return NanoCard.model_validate(json.loads((carried_nano() / CARD_FILE).read_bytes()))


def test_it_is_at_most_20_megabytes() -> None:
    weights = list(carried_nano().rglob("*.safetensors"))
    assert len(weights) == 3
    assert sum(path.stat().st_size for path in weights) <= 20e6
    assert not list(carried_nano().rglob("*.bin"))


def test_its_card_is_about_these_weights(card: NanoCard) -> None:
    assert card.fingerprint == fingerprint(carried_nano(), BASE_PARTS)


def test_the_command_without_options_is_the_one_that_made_it(card: NanoCard) -> None:
    assert card.settings == Settings()
    assert card.commit is not None
    assert not card.commit.endswith("+")


def test_it_has_the_sizes_that_the_builder_builds() -> None:
    trained = CogVideoXPipeline.from_pretrained(carried_nano(), torch_dtype=torch.float32)
    for part, fresh in (("vae", build_vae()), ("transformer", build_transformer())):
        shapes = {name: value.shape for name, value in getattr(trained, part).state_dict().items()}
        assert shapes == {name: value.shape for name, value in fresh.state_dict().items()}
    assert read_facts(carried_nano()).variant.name


def test_it_draws_what_a_caption_asks_for() -> None:
    session = Session.open(carried_nano(), dtype="float32")
    scene = draw_scene(1, 0)
    size = VideoSize(FRAMES, SIDE, SIDE)
    rgb_fhwc = session.generate(
        Request(prompt=scene.caption, seed=0, size=size, fps=FPS, sampling=SAMPLING)
    )
    right = right_traits(read(rgb_fhwc), scene)
    assert right["background"]
    assert right["colour"]


@pytest.fixture(scope="module")
def grades() -> Grades:
    return grade(carried_nano())


@pytest.mark.slow
def test_quality_is_as_the_card_says(card: NanoCard, grades: Grades) -> None:
    assert grades.psnr_db == pytest.approx(card.grades.psnr_db, abs=0.1)
    for trait, share in grades.accuracy.items():
        # another processor rounds otherwise, and a video on the border may tip over
        assert share == pytest.approx(card.grades.accuracy[trait], abs=0.05)


@pytest.mark.slow
def test_unseen_clips_come_back_at_28_db(grades: Grades) -> None:
    assert grades.psnr_db >= 28


@pytest.mark.slow
@pytest.mark.parametrize("trait", ["background", "colour", "motion"])
def test_captions_decide_85_percent_of_videos(trait: str, grades: Grades) -> None:
    assert grades.accuracy[trait] >= 0.85
    assert grades.held_out_accuracy[trait] >= 0.85


@pytest.mark.slow
def test_captions_decide_the_shape_of_70_percent(grades: Grades) -> None:
    assert grades.accuracy["shape"] >= 0.7
    assert grades.held_out_accuracy["shape"] >= 0.7
