"""Every metric is documented and measured, and a team adds one without touching us."""

import sys

import numpy as np
import pytest

from cogvx.errors import ConfigError
from cogvx.evaluation.suite import suite_problems
from cogvx.metrics.registry import METRICS, measure, metrics
from cogvx.mp4 import Mp4
from tests.evaluation.builders import suite_document

VIDEO = Mp4(np.random.default_rng(0).integers(0, 256, size=(5, 48, 64, 3), dtype=np.uint8), 8.0)

FILE = """
from cogvx.metrics.metric import Metric

def _edge(video):
    return float(video.rgb_fhwc[:, 0].mean()) * video.fps

EDGE = Metric("edge", "edge", "0..255", 1, "video", "brightness of the upper edge", "letterboxes",
              _edge)
HELDOUT = Metric("heldout", "loss", "mse", -1, "heldout", "about", "lies", _edge)
CALM = Metric("temporal_flickering", "calm", "0..1", 1, "video", "about", "lies", _edge)
BAD = Metric("bad", "bad", "none", 1, "video", "about", "lies", lambda video: float("nan"))
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package with these entry points, as pip leaves it."""

    def installed(**entries):
        (tmp_path / "team_metric.py").write_text(FILE)
        facts = tmp_path / "team_metric-1.0.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: team-metric\nVersion: 1.0\n")
        lines = [f"{name} = {value}" for name, value in entries.items()]
        (facts / "entry_points.txt").write_text("\n".join(["[cogvx.metrics]", *lines]))
        monkeypatch.syspath_prepend(str(tmp_path))
        metrics.cache_clear()  # as a new process has it

    yield installed
    metrics.cache_clear()
    sys.modules.pop("team_metric", None)


def test_every_metric_is_documented_and_measured():
    values = measure(VIDEO)
    assert set(values) == {name for name, metric in METRICS.items() if metric.measure is not None}
    assert all(np.isfinite(value) for value in values.values())
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.about
        assert metric.lies


def test_metrics_can_be_chosen():
    assert set(measure(VIDEO, ["contrast"])) == {"contrast"}


def test_a_teams_metric_is_measured_and_can_be_gated_on(install):
    suite = suite_document(gate={"primaries": ["edge"]})
    assert "is no metric" in str(suite_problems(suite)[0])
    install(edge="team_metric:EDGE")
    assert measure(VIDEO)["edge"] == VIDEO.rgb_fhwc[:, 0].mean() * 8
    assert [*metrics()] == [*METRICS, "edge"]
    assert suite_problems(suite) == []


def test_what_is_wrong_with_installed_metrics_is_told_at_once(install):
    install(
        absent="team_missing:EDGE",
        nothing="team_metric:NOTHING",
        number="team_metric:FILE",
        other="team_metric:EDGE",
        temporal_flickering="team_metric:CALM",
        heldout="team_metric:HELDOUT",
        function="team_metric:_edge",
    )
    with pytest.raises(ConfigError) as caught:
        metrics()
    text = str(caught.value)
    assert "7 problem(s)" in text
    for part in ("cannot be loaded", "is no Metric", 'calls itself "edge"', "taken", "not measure"):
        assert part in text


def test_a_number_that_is_not_finite_is_refused(install):
    install(bad="team_metric:BAD")
    with pytest.raises(ConfigError, match="metric bad is nan"):
        measure(VIDEO)
