"""Metrics equal their written definitions, computed another way."""

import itertools

import numpy as np
import pytest
import torch

from cogvx.evaluation.metrics import (
    METRICS,
    brightness,
    contrast,
    measure,
    motion_magnitude,
    sanity_faults,
    saturation,
    temporal_flickering,
)
from cogvx.model.nano.world import Scene, render
from cogvx.mp4 import read_mp4


@pytest.fixture(scope="module")
def real_rgb_fhwc(world_clips):
    return read_mp4(min(world_clips.glob("*.mp4"))).rgb_fhwc


def test_temporal_flickering_is_vbenchs(real_rgb_fhwc):
    # As VBench walks: one mean absolute difference per pair of frames, then their mean.
    frames = [torch.from_numpy(frame.copy()).double() for frame in real_rgb_fhwc]
    pairs = [(a - b).abs().mean().item() for a, b in itertools.pairwise(frames)]
    expected = (255.0 - float(np.mean(pairs))) / 255.0
    assert temporal_flickering(real_rgb_fhwc) == pytest.approx(expected, abs=1e-9)


def test_a_frozen_video_flickers_least():
    frozen = np.repeat(np.arange(48 * 48 * 3, dtype=np.uint8).reshape(1, 48, 48, 3), 5, axis=0)
    assert temporal_flickering(frozen) == 1.0
    assert temporal_flickering(frozen[:1]) == 1.0


@pytest.mark.parametrize(("motion", "speed"), [("right", 12.8), ("up", 12.8), ("still", 0.0)])
def test_motion_magnitude_is_the_speed_of_a_shape(motion, speed):
    # 0.4 of 48 pixels in 8 steps is 2.4 pixels a frame: 12.8 where the short side is 256.
    scene = Scene("square", "red", "small", motion, "white", (0.0, 0.0), "")
    assert motion_magnitude(render(scene, frames=9, size=48)) == pytest.approx(speed, rel=0.1)


def test_motion_magnitude_follows_a_shift_of_texture_at_any_size():
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 256, size=(240, 400, 1)).repeat(3, axis=2).astype(np.uint8)
    texture = texture.repeat(2, axis=0).repeat(2, axis=1)[:480]
    moving = np.stack([texture[:, 8 * step : 8 * step + 720] for step in range(4)])
    assert motion_magnitude(moving) == pytest.approx(8 * 256 / 480, rel=0.05)


def test_motion_magnitude_is_not_fooled_by_the_coders_noise():
    rng = np.random.default_rng(1)
    noisy = (128 + rng.integers(-1, 2, size=(6, 96, 96, 3))).astype(np.uint8)
    assert motion_magnitude(noisy) == 0.0


def test_colours_are_measured_on_known_pictures():
    red = np.zeros((2, 8, 8, 3), np.uint8)
    red[..., 0] = 255
    assert saturation(red) == pytest.approx(1.0)
    assert brightness(red) == pytest.approx(255 * 0.2126, rel=1e-5)
    assert contrast(red) == pytest.approx(0.0, abs=1e-4)
    halves = np.zeros((2, 8, 8, 3), np.uint8)
    halves[:, :4] = 255
    assert contrast(halves) == pytest.approx(127.5, rel=1e-5)
    assert brightness(halves) == pytest.approx(127.5, rel=1e-5)
    assert saturation(halves) == 0.0


def test_every_metric_is_documented_and_measured(real_rgb_fhwc):
    values = measure(real_rgb_fhwc)
    assert set(values) == {name for name, metric in METRICS.items() if metric.kind == "video"}
    assert all(np.isfinite(value) for value in values.values())
    for metric in METRICS.values():
        assert metric.about
        assert (
            metric.measure is None
            or "It lies" in metric.measure.__doc__
            or ("It rises" in metric.measure.__doc__)
        )


def test_worthless_videos_are_found(real_rgb_fhwc):
    assert sanity_faults(real_rgb_fhwc) == ()
    black = np.zeros_like(real_rgb_fhwc)
    assert any("black" in fault for fault in sanity_faults(black))
    assert any("frozen" in fault for fault in sanity_faults(real_rgb_fhwc[:1].repeat(4, axis=0)))
    grey = np.stack([np.full((48, 48, 3), 100 + step, np.uint8) for step in range(4)])
    assert any("flat" in fault for fault in sanity_faults(grey))
