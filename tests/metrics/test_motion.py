"""Motion is measured on clips whose speed is known, and by VBench's definitions written out."""

import cv2
import numpy as np
import pytest

from cogvx.metrics import motion as flow
from cogvx.metrics.motion import motion_smoothness, shrunk
from cogvx.metrics.viewed import Viewed
from cogvx.model.nano.world import SHAPES, Scene, render
from cogvx.mp4 import read_mp4, write_mp4


def speeds(rgb_fhwc):
    return flow.speeds(shrunk(rgb_fhwc))


def motion_magnitude(rgb_fhwc):
    return flow.motion_magnitude(speeds(rgb_fhwc))


def dynamic_degree(rgb_fhwc, fps):
    return Viewed(rgb_fhwc, fps).dynamic_degree


def moving_texture(step, *, frames=4, seed=0):
    """480x720, blobs that move left by `step` pixels a frame."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, size=(480, 720 + step * frames, 3)).astype(np.float32)
    blobs = cv2.GaussianBlur(noise, (0, 0), 6)
    blobs = (blobs - blobs.min()) / (blobs.max() - blobs.min()) * 255
    return np.stack([blobs[:, step * n : step * n + 720] for n in range(frames)]).astype(np.uint8)


# Every colour has two backgrounds: one that is far from it in brightness, and one that is near.
PAINTS = [("red", "white"), ("orange", "green"), ("black", "blue")]


@pytest.mark.parametrize("size", [48, 120])
@pytest.mark.parametrize("paint", PAINTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_flat_shapes_of_any_size_have_their_speed(shape, paint, size):
    # 0.4 of the frame in 8 steps is a twentieth a frame: 12.8 where the short side is 256.
    colour, background = paint
    for motion, extent in (("right", "large"), ("up", "small")):
        scene = Scene(shape, colour, extent, motion, background, (0.0, 0.0), "")
        clip = render(scene, frames=9, size=size)
        assert motion_magnitude(clip[:4]) == pytest.approx(12.8, rel=0.15)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_coder_does_not_change_the_speed_of_flat_shapes(shape, tmp_path):
    scene = Scene(shape, "red", "large", "right", "white", (0.0, 0.0), "")
    write_mp4(tmp_path / "clip.mp4", render(scene, frames=9, size=96), fps=8)
    found = motion_magnitude(read_mp4(tmp_path / "clip.mp4").rgb_fhwc)
    assert found == pytest.approx(12.8, rel=0.15)


@pytest.mark.parametrize(("step", "allowed"), [(2, 0.2), (8, 0.05), (24, 0.05), (48, 0.05)])
def test_textured_pictures_have_their_speed_up_to_a_tenth_of_the_side(step, allowed):
    want = step * 256 / 480
    assert motion_magnitude(moving_texture(step)) == pytest.approx(want, rel=allowed)


def test_what_stands_still_does_not_move():
    still = render(Scene("ring", "red", "large", "still", "white", (0, 0), ""), frames=9, size=48)
    assert motion_magnitude(still) == 0.0
    assert motion_magnitude(still[:1]) == 0.0
    rng = np.random.default_rng(1)
    noisy = (128 + rng.integers(-1, 2, size=(6, 96, 96, 3))).astype(np.uint8)
    assert motion_magnitude(noisy) < 0.1


def test_only_the_fastest_twentieth_counts():
    """A clip whose left half moves is as fast as one that moves everywhere."""
    whole = moving_texture(16)
    half = whole.copy()
    half[:, :, 360:] = whole[:1, :, 360:]
    assert motion_magnitude(half) == pytest.approx(motion_magnitude(whole), rel=0.1)


def test_dynamic_degree_asks_a_quarter_of_the_pairs_for_six_pixels_of_256():
    slow, fast = moving_texture(2, frames=17), moving_texture(16, frames=17)
    still = fast[:1].repeat(17, axis=0)
    assert speeds(slow).max() < 6 < speeds(fast).min()
    assert (dynamic_degree(slow, 8.0), dynamic_degree(fast, 8.0)) == (0.0, 1.0)
    # 17 frames ask for round(17 / 4) = 4 pairs
    for pairs, verdict in ((3, 0.0), (4, 1.0)):
        clip = np.concatenate([fast[: pairs + 1], fast[pairs : pairs + 1].repeat(16 - pairs, 0)])
        assert dynamic_degree(clip, 8.0) == verdict
    assert dynamic_degree(still, 8.0) == 0.0
    assert dynamic_degree(fast[:1], 8.0) == 0.0


def test_dynamic_degree_looks_eight_times_a_second():
    clip = moving_texture(8, frames=17)
    assert dynamic_degree(clip, 8.0) == 0.0
    assert dynamic_degree(clip, 16.0) == 1.0  # every second frame: twice the step


@pytest.mark.parametrize("frames", [3, 4, 9])
def test_motion_smoothness_is_vbenchs_with_a_linear_guess(frames):
    clip = np.random.default_rng(2).integers(0, 256, size=(frames, 6, 8, 3)).astype(np.uint8)
    errors = []
    for odd in range(1, frames - 1, 2):
        before, truth, after = (clip[n].astype(float) / 255 for n in (odd - 1, odd, odd + 1))
        guess = np.floor((before + after) / 2 * 255 + 1e-9)
        errors.append(np.abs(truth * 255 - guess).mean())
    expected = (255 - np.mean(errors)) / 255
    assert motion_smoothness(clip) == pytest.approx(expected, abs=1e-9)
    assert motion_smoothness(clip[:2]) == 1.0


@pytest.mark.parametrize(("height", "width"), [(48, 64), (120, 180), (480, 720), (97, 65)])
def test_flow_sees_rounded_luma_averaged_over_areas(height, width):
    clip = moving_texture(8, frames=2)[:, :height, :width]
    luma = clip.astype(np.float64) @ np.array([0.2126, 0.7152, 0.0722])
    scale = min(64 / min(height, width), 1)
    size = (round(width * scale), round(height * scale))
    small = [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in np.rint(luma)]
    found = shrunk(clip).astype(np.float64)
    assert found.shape == (2, *size[::-1])
    # a half rounds either way, once before the areas and once after
    assert np.abs(found - small).max() <= (0.51 if scale < 1 else 1.0)
