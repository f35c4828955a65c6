"""What was scored is not decoded again; all that decides a number is in its name."""

import logging
import sys

import numpy as np
import pytest

from cogvx.digest import sha256_file
from cogvx.errors import DataError
from cogvx.evaluation.gauge import Seen
from cogvx.evaluation.scores import FileScore, Scores, recall
from cogvx.evaluation.suite import PromptConfig
from cogvx.metrics import identity
from cogvx.metrics.identity import identities
from cogvx.metrics.registry import METRICS, measure, metrics
from cogvx.mp4 import read_mp4, write_mp4
from cogvx.recipe_sections import VideoConfig
from cogvx.store import MemoryStore

VIDEO = VideoConfig(frames=5, height=32, width=48, fps=8)
TEAM = """
from cogvx.metrics.metric import Metric

EDGE = Metric("edge", "edge", "0..255", 1, "video", "upper edge", "letterboxes",
              lambda video: float(video.rgb_fhwc[:, 0].mean()))
"""


@pytest.fixture
def mp4(tmp_path):
    path = tmp_path / "video.mp4"
    rng = np.random.default_rng(0)
    write_mp4(path, rng.integers(0, 256, size=(5, 32, 48, 3), dtype=np.uint8), fps=8)
    return path


def seen_of(path, decode=read_mp4):
    prompt = PromptConfig(id="circle", prompt="a circle")
    return Seen(prompt=prompt, seed=1, path=path, sha256=sha256_file(path), decode=decode)


def never(path):
    raise AssertionError(f"{path} is decoded again")


def test_a_scored_video_is_not_decoded_again_and_has_the_same_numbers(mp4):
    store = MemoryStore()
    first = Scores(VIDEO, store).of(seen_of(mp4))
    assert first.values == measure(read_mp4(mp4))
    assert set(first.values) == {name for name, metric in METRICS.items() if metric.measure}
    assert Scores(VIDEO, store).of(seen_of(mp4, decode=never)) == first
    (key,) = store.objects
    assert key.startswith("scores/")
    assert Scores(VIDEO).of(seen_of(mp4)) == first


def test_faults_are_kept_but_those_of_size_and_rate_are_the_recipes(mp4, tmp_path):
    store, other = MemoryStore(), VIDEO.model_copy(update={"frames": 9, "fps": 16})
    assert Scores(VIDEO, store).of(seen_of(mp4)).faults == ()
    assert Scores(other, store).of(seen_of(mp4, decode=never)).faults == (
        "is 5x32x48, not 9x32x48",
        "plays at 8 frames a second, not 16",
    )
    black = tmp_path / "black.mp4"
    write_mp4(black, np.zeros((5, 32, 48, 3), np.uint8), fps=8)
    faults = Scores(VIDEO, store).of(seen_of(black)).faults
    assert len(faults) == 2
    assert Scores(VIDEO, store).of(seen_of(black, decode=never)).faults == faults


def test_other_bytes_have_another_score(mp4):
    store = MemoryStore()
    Scores(VIDEO, store).of(seen_of(mp4))
    write_mp4(mp4, np.full((5, 32, 48, 3), 90, np.uint8), fps=8)
    assert Scores(VIDEO, store).of(seen_of(mp4)).values == measure(read_mp4(mp4))
    assert len(store.objects) == 2


@pytest.mark.parametrize("part", ["_DECODING", "av.__version__", "cv2.__version__", "metric"])
def test_whatever_measures_otherwise_has_another_name(part, mp4, monkeypatch):
    store = MemoryStore()
    Scores(VIDEO, store).of(seen_of(mp4))
    if part == "metric":
        known = {**identities(), "contrast": "cogvx 2"}
        monkeypatch.setattr("cogvx.evaluation.scores.identities", lambda: known)
    else:
        monkeypatch.setattr(f"{identity.__name__}.{part}", "9.9.9")
    Scores(VIDEO, store).of(seen_of(mp4))
    assert len(store.objects) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-9],
        lambda data: data.replace(b'"contrast":', b'"contrast":1'),
        lambda data: b'{"found":{},"sha256":1}',
        lambda data: b"[]",
        lambda data: b"\xff",
    ],
)
def test_a_damaged_score_is_measured_anew_and_said(damage, mp4, caplog):
    store = MemoryStore()
    first = Scores(VIDEO, store).of(seen_of(mp4))
    ((key, data),) = store.objects.items()
    store.write(key, damage(data))
    with caplog.at_level(logging.WARNING):
        assert Scores(VIDEO, store).of(seen_of(mp4)) == first
    assert f"{key} is damaged in memory://; it is measured anew" in caplog.text
    assert store.objects == {key: data}


def test_a_file_that_is_no_video_is_refused_and_nothing_is_kept(tmp_path):
    path, store = tmp_path / "broken.mp4", MemoryStore()
    path.write_bytes(b"no video")
    with pytest.raises(DataError, match="cannot be decoded"):
        Scores(VIDEO, store).of(seen_of(path))
    assert not store.objects


def test_what_gauges_found_is_kept_under_all_that_it_depends_on():
    store, asked = MemoryStore(), []

    def found(parts):
        def measure():
            asked.append(parts)
            return FileScore(frames=1, height=1, width=1, fps=0.1, values={}, faults=())

        return recall(store, parts, FileScore, measure=measure)

    assert found({"of": "a", "video": "1"}) == found({"video": "1", "of": "a"})
    found({"of": "b", "video": "1"})
    found({"of": "a", "video": "2"})
    assert len(asked) == 3


def install(folder, monkeypatch, version, text=TEAM):
    """Install a package with a metric as pip leaves it, in what is a new process to us."""
    facts = folder / "team_edge.dist-info"
    facts.mkdir(exist_ok=True)
    (folder / "team_edge.py").write_text(text)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: team-edge\nVersion: {version}\n")
    (facts / "entry_points.txt").write_text("[cogvx.metrics]\nedge = team_edge:EDGE\n")
    monkeypatch.syspath_prepend(str(folder))
    sys.modules.pop("team_edge", None)
    metrics.cache_clear()
    identities.cache_clear()


@pytest.fixture
def team(tmp_path, monkeypatch):
    yield lambda version, text=TEAM: install(tmp_path, monkeypatch, version, text)
    sys.modules.pop("team_edge", None)
    metrics.cache_clear()
    identities.cache_clear()


def test_a_teams_metric_is_measured_anew_with_each_version_and_each_change_of_its_file(team, mp4):
    store = MemoryStore()
    Scores(VIDEO, store).of(seen_of(mp4))
    team("1.0")
    assert "edge" in Scores(VIDEO, store).of(seen_of(mp4)).values
    assert "edge" in Scores(VIDEO, store).of(seen_of(mp4, decode=never)).values
    team("1.1")
    Scores(VIDEO, store).of(seen_of(mp4))
    assert len(store.objects) == 3
    # bytecode is looked up by seconds and length, so the file must not have the same length
    team("1.1", TEAM.replace("[:, 0].mean()", "[:, 0].mean() + 1.0"))
    changed = Scores(VIDEO, store).of(seen_of(mp4)).values["edge"]
    assert changed == pytest.approx(read_mp4(mp4).rgb_fhwc[:, 0].mean() + 1)
