"""A video's name says everything that decides its bytes, and did so before there were images."""

from dataclasses import replace

import numpy as np
import pytest

from cogvx.inference.request import Request, Sampling
from cogvx.inference.video_key import Engine, key_of
from cogvx.shapes import VideoSize

ENGINE = Engine("1" * 64, "float32")
REQUEST = Request("x", 1, VideoSize(9, 48, 48), 8, Sampling(2, 1.0, "dpm"))
ADAPTERS = (("a" * 64, 0.5),)


def name(request: Request = REQUEST, engine: Engine = ENGINE, adapters=ADAPTERS) -> str:
    return key_of(request, adapters, engine).digest


def test_videos_keep_the_names_that_stores_know_them_by() -> None:
    assert name() == "c170ff399d57b94100b5b56110f9b0a6fef64fcdbe68581a4e94b5ab3e786c5a"


def picture(value: int) -> np.ndarray:
    return np.full((48, 48, 3), value, np.uint8)


@pytest.mark.parametrize(
    "other",
    [
        name(replace(REQUEST, prompt="y")),
        name(replace(REQUEST, seed=2)),
        name(replace(REQUEST, fps=16)),
        name(replace(REQUEST, size=VideoSize(9, 48, 64))),
        name(replace(REQUEST, negative_prompt="y")),
        name(replace(REQUEST, sampling=Sampling(2, 1.0, "ddim"))),
        name(replace(REQUEST, sampling=Sampling(2, 1.0, "dpm", dynamic_guidance=True))),
        name(replace(REQUEST, image_hwc=picture(0))),
        name(replace(REQUEST, image_hwc=picture(1))),
        name(engine=replace(ENGINE, base_fingerprint="2" * 64)),
        name(engine=replace(ENGINE, dtype="bfloat16")),
        name(engine=replace(ENGINE, tiling=True)),
        name(engine=replace(ENGINE, base_weights="int8")),
        name(engine=replace(ENGINE, base_weights="float8")),
        name(engine=replace(ENGINE, image_scale="raw")),
        name(engine=replace(ENGINE, fused=True)),
        name(adapters=()),
        name(adapters=(("a" * 64, 0.6),)),
        name(adapters=(("b" * 64, 0.5),)),
        name(adapters=(*ADAPTERS, ("b" * 64, 0.5))),
    ],
)
def test_whatever_changes_the_pixels_changes_the_name(other: str) -> None:
    assert other != name()


def test_what_changes_no_pixel_changes_no_name() -> None:
    assert name(adapters=(*ADAPTERS, ("b" * 64, 0.0))) == name()
    two = (("b" * 64, 1.0), *ADAPTERS)
    assert name(adapters=two) == name(adapters=two[::-1])
    fused = replace(ENGINE, fused=True)
    assert name(engine=fused, adapters=()) == name(adapters=()), "there is nothing to fuse"
