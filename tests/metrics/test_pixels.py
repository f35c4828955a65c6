"""Metrics of pixels equal their written definitions, computed another way."""

import itertools

import numpy as np
import pytest
import torch

from cogvx.metrics.pixels import (
    brightness,
    contrast,
    sanity_faults,
    saturation,
    temporal_flickering,
)
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


def test_worthless_videos_are_found(real_rgb_fhwc):
    assert sanity_faults(real_rgb_fhwc) == ()
    black = np.zeros_like(real_rgb_fhwc)
    assert any("black" in fault for fault in sanity_faults(black))
    assert any("frozen" in fault for fault in sanity_faults(real_rgb_fhwc[:1].repeat(4, axis=0)))
    grey = np.stack([np.full((48, 48, 3), 100 + step, np.uint8) for step in range(4)])
    assert any("flat" in fault for fault in sanity_faults(grey))
