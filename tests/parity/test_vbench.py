"""Whole files score as VBench's definitions say, walked step by step over another decoder's frames.

Where VBench has a network that cannot be had, another stands in: Farneback's flow for RAFT, the
mean of two neighbours for AMT, and networks of transformers at toy size.
"""

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from transformers import CLIPModel, ViTModel

from cogvx.metrics.encoder_set import open_encoder_set
from cogvx.metrics.preparation import clip_frames, dino_frames
from cogvx.metrics.score import score_file
from tests.metrics.networks import build_networks

# Filmed clips, where somebody put some beside the checkout; the project brings only drawn ones.
FILMED = sorted((Path(__file__).parents[3] / "shared" / "clips").glob("*.mp4"))


@pytest.fixture(scope="module")
def clips(world_clips):
    """Three files, which takes seconds; some move and some do not."""
    return (FILMED or sorted(world_clips.glob("*.mp4")))[:3]


@pytest.fixture(scope="module")
def scored(clips):
    names = (
        "temporal_flickering",
        "motion_smoothness_linear",
        "dynamic_degree_farneback",
        "motion_magnitude",
    )
    return {clip: score_file(clip, names).values for clip in clips}


def frames_of(path):
    """All frames as VBench reads them, blue first, and the rate."""
    capture = cv2.VideoCapture(str(path))
    rate, frames = capture.get(cv2.CAP_PROP_FPS), []
    while True:
        more, frame = capture.read()
        if not more:
            return frames, rate
        frames.append(frame)


@pytest.fixture(scope="module")
def read(clips):
    return {clip: frames_of(clip) for clip in clips}


def test_temporal_flickering_is_vbenchs_to_the_sixth_digit(read, scored):
    for clip, (frames, _) in read.items():
        changes = [
            cv2.absdiff(one.astype(np.float32), other.astype(np.float32)).mean()
            for one, other in itertools.pairwise(frames)
        ]
        expected = (255.0 - np.mean(changes)) / 255.0
        assert scored[clip]["temporal_flickering"] == pytest.approx(expected, abs=1e-6)
    assert len({each["temporal_flickering"] for each in scored.values()}) == len(read)


def test_motion_smoothness_is_vbenchs_with_another_interpolation(read, scored):
    for clip, (frames, _) in read.items():
        scores = []
        for number in range(1, len(frames) - 1, 2):
            before, truth, after = (
                torch.from_numpy(frames[place]).float() / 255
                for place in (number - 1, number, number + 1)
            )
            guessed = ((before + after) / 2 * 255 + 1e-3).clamp(0, 255).to(torch.uint8)
            scores.append((guessed.float() - truth * 255).abs().mean().item())
        expected = (255.0 - np.mean(scores)) / 255.0
        assert scored[clip]["motion_smoothness_linear"] == pytest.approx(expected, abs=1e-6)


def small_of(frame):
    """A grey copy with a short side of at most 64."""
    grey = np.rint(frame.astype(np.float32) @ np.array([0.0722, 0.7152, 0.2126], np.float32))
    scale = min(64 / min(grey.shape), 1.0)
    size = round(grey.shape[1] * scale), round(grey.shape[0] * scale)
    return cv2.resize(grey.astype(np.uint8), size, interpolation=cv2.INTER_AREA)


def speed_between(one, other):
    """VBench's score of a pair, the mean of the fastest twentieth, by the flow that stands in."""
    flow = cv2.calcOpticalFlowFarneback(one, other, None, 0.5, 3, 21, 3, 5, 1.2, 0)
    lengths = np.sqrt(flow[..., 0] ** 2 + flow[..., 1] ** 2).ravel()
    return np.mean(-np.sort(-lengths)[: int(lengths.size * 0.05)])


def test_dynamic_degree_is_vbenchs_with_another_flow(read, scored):
    for clip, (frames, rate) in read.items():
        looked = [small_of(frame) for frame in frames[:: max(round(rate / 8), 1)]]
        threshold = 6.0 * min(looked[0].shape) / 256.0
        speeds = [speed_between(*pair) for pair in itertools.pairwise(looked)]
        moving = sum(speed > threshold for speed in speeds)
        expected = float(moving >= round(4 * len(looked) / 16.0))
        assert scored[clip]["dynamic_degree_farneback"] == expected
        if len(looked) == len(frames):
            magnitude = np.mean(speeds) * 256 / min(looked[0].shape)
            assert scored[clip]["motion_magnitude"] == pytest.approx(magnitude, rel=1e-3)


def walked(features):
    """VBench's consistency: every frame with the one before it and the first."""
    first = last = None
    total = 0.0
    for feature in torch.nn.functional.normalize(features, dim=-1):
        if first is None:
            first = feature
        else:
            before = max(0.0, torch.nn.functional.cosine_similarity(last, feature, dim=0).item())
            start = max(0.0, torch.nn.functional.cosine_similarity(first, feature, dim=0).item())
            total += (before + start) / 2
        last = feature
    return total / (len(features) - 1)


def test_consistency_is_vbenchs_on_whole_files(world_clips, tmp_path):
    named = build_networks(tmp_path)
    encoders = open_encoder_set({kind: named[kind] for kind in ("dino", "clip")}, texts=False)
    clip = min(world_clips.glob("*.mp4"))  # square, where any DINO's positions are the authors'
    found = score_file(clip, (), encoders=encoders).values
    frames, _ = frames_of(clip)
    pixels = torch.from_numpy(np.stack(frames)[..., ::-1].copy()).permute(0, 3, 1, 2).float()
    dino = ViTModel.from_pretrained(named["dino"], add_pooling_layer=False).eval()
    clip_model = CLIPModel.from_pretrained(named["clip"]).eval()
    with torch.no_grad():
        subject = dino(pixel_values=dino_frames(pixels, 32)).last_hidden_state[:, 0]
        scene = clip_model.get_image_features(pixel_values=clip_frames(pixels, 32))
    assert found == {
        "subject_consistency_dino": pytest.approx(walked(subject), abs=1e-6),
        "background_consistency_clip": pytest.approx(
            walked(getattr(scene, "pooler_output", scene)), abs=1e-6
        ),
    }
