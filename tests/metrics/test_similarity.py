"""Similarity of features equals its definitions, written out with scikit-learn and loops."""

import itertools

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestNeighbors

from cogvx.metrics.similarity import (
    Gallery,
    centroid_of,
    diversity,
    embedding_of,
    mean_cosine,
    middle_frames,
)


def rows(seed, count=8, width=12):
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def test_the_middle_frames_are_vbenchs():
    assert middle_frames(49) == (2, 8, 14, 20, 26, 32, 38, 45)
    assert middle_frames(49, 16)[:2] == (1, 4)
    assert middle_frames(49, 16)[-1] == 46
    assert middle_frames(9) == (0, 1, 2, 3, 4, 5, 6, 7)
    assert middle_frames(3) == (0, 1, 2, 2, 2, 2, 2, 2)
    assert middle_frames(1) == (0,) * 8
    for total in range(1, 120):
        found = middle_frames(total)
        assert len(found) == 8
        assert 0 <= min(found) <= max(found) < total
        assert list(found) == sorted(found)


def test_a_videos_embedding_is_the_direction_of_its_mean_frame():
    frames = rows(1)
    total = sum(frame / np.sqrt((frame.astype(float) ** 2).sum()) for frame in frames)
    np.testing.assert_allclose(embedding_of(frames), total / np.linalg.norm(total), atol=1e-7)
    # a frame that is twice as bright weighs no more
    np.testing.assert_allclose(embedding_of(frames * 7), embedding_of(frames), atol=1e-6)
    assert not embedding_of(np.zeros((8, 12))).any()


def test_cosines_to_a_direction_are_averaged():
    frames, text = rows(2), rows(3, 1)[0]
    expected = cosine_similarity(frames, text[None]).mean()
    assert mean_cosine(frames, text) == pytest.approx(expected, abs=1e-6)


def test_diversity_is_the_mean_distance_of_all_pairs():
    embeddings = [embedding_of(rows(seed)) for seed in range(4)]
    pairs = [1 - a @ b for a, b in itertools.combinations(embeddings, 2)]
    assert len(pairs) == 6
    videos = [rows(seed) for seed in range(4)]
    assert diversity(videos) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert diversity(videos[:1] * 3) == pytest.approx(0.0, abs=1e-12)
    assert diversity(videos[:1]) is None
    assert diversity([]) is None
    np.testing.assert_allclose(centroid_of(embeddings[:1]), embeddings[0], atol=1e-12)


def test_the_nearest_clip_has_the_single_most_similar_frame():
    windows = [("a", rows(4)), ("b", rows(5)), ("b", rows(6)), ("c", rows(7))]
    gallery, video = Gallery.of(windows), rows(8)
    every = np.concatenate([frames for _, frames in windows])
    search = NearestNeighbors(n_neighbors=1, metric="cosine").fit(every)
    distances, places = search.kneighbors(video)
    best = int(distances.argmin())
    clip, similarity = gallery.nearest(video)
    assert clip == [name for name, _ in windows for _ in range(8)][places[best, 0]]
    assert similarity == pytest.approx(1 - distances.min(), abs=1e-5)
    # one copied frame is enough, and nothing is above 1
    copied = np.concatenate([rows(9, 7), windows[2][1][3:4] * 5])
    clip, similarity = gallery.nearest(copied)
    assert clip == "b"
    assert 1 - 1e-6 < similarity <= 1


def test_what_clips_that_are_no_copies_reach_is_the_limit():
    gallery = Gallery.of([(str(seed), rows(seed)) for seed in range(20)])
    others = [rows(100 + seed) for seed in range(50)]
    reached = [cosine_similarity(frames, gallery.rows_nd).max() for frames in others]
    usual = gallery.usual([(str(number), rows) for number, rows in enumerate(others)])
    assert usual.value == pytest.approx(np.percentile(reached, 99), abs=1e-5)
    assert (usual.clips, usual.above) == (50, 1)
    assert gallery.usual([]) is None
    twice = gallery.usual([(str(number // 2), rows) for number, rows in enumerate(others)])
    assert (twice.value, twice.clips, twice.above) == (usual.value, 25, 1)
