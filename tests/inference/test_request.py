"""What cannot be generated is said at once, before a model is loaded, with what to use instead."""

import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from cogvx.errors import ConfigError
from cogvx.inference.request import (
    Request,
    Sampling,
    default_sampling,
    request_problems,
)
from cogvx.shapes import VideoSize
from cogvx.variants import PUBLISHED, default_size, read_facts
from tests.fixtures.family import MEMBERS, BaseOf
from tests.inference.test_variants import open_member


def request_of(name: str, **changes: object) -> Request:
    """A request that suits a published base, with changes."""
    facts = PUBLISHED[name]
    size = changes.get("size", default_size(facts))
    image = np.zeros((size.height, size.width, 3), np.uint8)
    fields = {
        "prompt": "a kite",
        "seed": 1,
        "size": size,
        "fps": facts.variant.fps,
        "sampling": default_sampling(facts),
        "image_hwc": image if facts.variant.image_to_video else None,
    }
    return Request(**{**fields, **changes})


def sentences(name: str, **changes: object) -> list[str]:
    return [str(found) for found in request_problems(request_of(name, **changes), PUBLISHED[name])]


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_base_generates_its_defaults(name: str) -> None:
    assert sentences(name) == []
    sampling = default_sampling(PUBLISHED[name])
    assert (sampling.steps, sampling.guidance, sampling.dynamic_guidance) == (50, 6.0, False)
    assert sampling.sampler == ("ddim" if name == "CogVideoX-2b" else "dpm")


@pytest.mark.parametrize(
    ("name", "size", "sentence"),
    [
        ("CogVideoX-5b", "57x480x720", "more than 49 frames, the longest .* use 49 frames"),
        ("CogVideoX1.5-5B", "177x768x1360", "more than 161 frames, .* use 161 frames"),
        ("CogVideoX1.5-5B", "85x768x1360", "not 16k . 1; use 81 frames"),
        ("CogVideoX-2b", "50x480x720", "not 8k . 1; use 49 frames"),
        ("CogVideoX-5b", "999x480x720", "not 8k . 1; use 49 frames"),
        ("CogVideoX-5b", "49x488x720", "side that is not a multiple of 16"),
        ("CogVideoX1.5-5B", "81x2416x1360", "larger than 2400x2400, beyond which"),
        ("CogVideoX-5b-I2V", "41x480x720", "is not 49x480x720, the only size"),
        ("CogVideoX-5b-I2V", "49x720x480", "is not 49x480x720, the only size"),
    ],
)
def test_a_size_that_a_base_does_not_make_is_a_sentence(
    name: str, size: str, sentence: str
) -> None:
    (found,) = sentences(name, size=VideoSize.parse(size))
    assert found.startswith(f'size = "{size}" ')
    assert re.search(sentence, found)


@pytest.mark.parametrize(
    "name", [name for name in PUBLISHED if not PUBLISHED[name].variant.fixed_size]
)
def test_what_is_proposed_is_possible(name: str) -> None:
    for frames in range(200):
        size = replace(default_size(PUBLISHED[name]), frames=frames)
        for found in request_problems(request_of(name, size=size), PUBLISHED[name]):
            better = int(found.use.split()[1])
            assert sentences(name, size=replace(size, frames=better)) == []


def test_everything_wrong_is_said_at_once() -> None:
    found = sentences(
        "CogVideoX1.5-5B-I2V",
        sampling=Sampling(steps=30, guidance=float("nan"), sampler="dpm"),
        seed=-1,
        fps=0,
        size=VideoSize(82, 700, 1360),
        image_hwc=None,
    )
    assert [one.split(" ")[0] for one in found] == [
        "sampling.steps",
        "sampling.guidance",
        "seed",
        "fps",
        "size",
        "size",
        "image",
    ]


@pytest.mark.parametrize("guidance", [0.5, -1.0, float("inf")])
def test_guidance_begins_at_none(guidance: float) -> None:
    (found,) = sentences("CogVideoX-5b", sampling=Sampling(50, guidance, "dpm"))
    assert "sampling.guidance" in found


def test_an_image_goes_with_a_base_that_starts_from_one() -> None:
    image = np.zeros((480, 720, 3), np.uint8)
    (found,) = sentences("CogVideoX-5b", image_hwc=image)
    assert found == "image is given, but CogVideoX-5b starts from text alone; remove it"
    (found,) = sentences("CogVideoX-5b-I2V", image_hwc=None)
    assert found == "image is missing: CogVideoX-5b-I2V starts from one; give a picture"
    for wrong in (image[:, :-1], image[..., :1], image.astype(np.float32)):
        (found,) = sentences("CogVideoX-5b-I2V", image_hwc=wrong)
        assert "not the first frame of 49x480x720 in uint8" in found


@pytest.mark.parametrize("member", MEMBERS, ids=str)
def test_a_session_refuses_before_it_begins(base_of: BaseOf, member: object) -> None:
    session = open_member(base_of, member)
    size = replace(default_size(read_facts(base_of(member))), frames=4)
    asked = Request("a", -3, size, 8, Sampling(30, 6.0, "dpm"))
    with pytest.raises(ConfigError, match="this video cannot be generated") as caught:
        session.generate(asked)
    assert len(caught.value.problems) == 3 + member.image_to_video


def test_a_control_machine_judges_requests_without_torch() -> None:
    code = (
        "import sys, cogvx.inference.request, cogvx.inference.memory; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
