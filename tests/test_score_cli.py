"""`cogvx score` measures any files, says which it could not read, refuses unknown names first."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
from typer.testing import CliRunner

from cogvx.__main__ import app
from cogvx.digest import sha256_file
from cogvx.errors import ConfigError, DataError
from cogvx.metrics.consistency import consistency
from cogvx.metrics.encoder_set import open_encoder_set
from cogvx.metrics.encoders import open_encoder
from cogvx.metrics.pixels import changes, temporal_flickering
from cogvx.metrics.registry import METRICS
from cogvx.metrics.similarity import mean_cosine, middle_frames
from cogvx.mp4 import read_mp4, write_mp4
from tests.metrics.networks import build_networks


@pytest.fixture
def clip(world_clips):
    return min(world_clips.glob("*.mp4"))


def scored(*arguments):
    return CliRunner().invoke(app, ["score", *map(str, arguments)])


def test_every_metric_of_videos_is_printed_with_its_unit_and_its_warning(clip):
    result = scored(clip)
    assert result.exit_code == 0
    for name, metric in METRICS.items():
        if metric.measure is not None:
            assert f"  {name} " in result.output
            assert metric.lies in result.output


def test_json_is_one_document_with_full_numbers(clip, tmp_path):
    black = tmp_path / "black.mp4"
    write_mp4(black, np.zeros((3, 32, 48, 3), np.uint8), fps=8)
    result = scored(clip, black, "--metric", "temporal_flickering", "--json")
    first, second = json.loads(result.output)["videos"]
    video = read_mp4(clip)
    assert first["values"] == {"temporal_flickering": temporal_flickering(changes(video.rgb_fhwc))}
    assert first["sha256"] == sha256_file(clip)
    assert first["path"] == str(clip)
    assert first["faults"] == []
    assert (second["frames"], second["height"], second["width"]) == (3, 32, 48)
    assert "black" in second["faults"][0]


def test_a_file_that_is_no_video_costs_the_others_nothing(clip, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    result = scored(broken, tmp_path / "absent.mp4", clip, "--json")
    assert isinstance(result.exception, DataError)
    assert "broken.mp4" in str(result.exception)
    assert "absent.mp4" in str(result.exception)
    assert [one["path"] for one in json.loads(result.output)["videos"]] == [str(clip)]


def test_unknown_metrics_are_refused_before_anything_is_decoded(tmp_path):
    result = scored(
        tmp_path / "absent.mp4", "--metric", "motion_magnitud", "--metric", "heldout_loss"
    )
    assert isinstance(result.exception, ConfigError)
    assert "2 problem(s)" in str(result.exception)
    assert 'closest: "motion_magnitude"' in str(result.exception)


def test_an_encoder_adds_its_consistency_and_its_features_are_kept(clip, tmp_path):
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        projection_dim=8,
    )
    CLIPVisionModelWithProjection(config).save_pretrained(tmp_path / "clip")
    more = ("--encoder", f"clip={tmp_path / 'clip'}", "--features", tmp_path / "kept", "--json")
    first = scored(clip, "--metric", "contrast", *more)
    document = json.loads(first.stdout)["videos"][0]
    rows = open_encoder("clip", tmp_path / "clip").features(read_mp4(clip).rgb_fhwc)
    assert document["values"]["background_consistency_clip"] == consistency(rows)
    assert set(document["values"]) == {"contrast", "background_consistency_clip"}
    (kept,) = [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]
    written = kept.stat().st_mtime_ns
    assert scored(clip, "--metric", "contrast", *more).stdout == first.stdout
    assert kept.stat().st_mtime_ns == written
    shown = scored(clip, *more[:-1]).output
    assert "background_consistency_clip" in shown
    assert "a frozen video is best" in shown


def test_a_text_and_a_head_add_their_metrics(clip, tmp_path):
    named = build_networks(tmp_path)
    networks = [
        part
        for kind in ("clip", "siglip2", "aesthetic")
        for part in ("--encoder", f"{kind}={named[kind]}")
    ]
    text = "a large red circle rises"
    result = scored(clip, "--metric", "contrast", *networks, "--text", text, "--json")
    document = json.loads(result.stdout)["videos"][0]
    rgb_fhwc = read_mp4(clip).rgb_fhwc
    middle = rgb_fhwc[list(middle_frames(len(rgb_fhwc)))]
    encoders = open_encoder_set({kind: named[kind] for kind in ("clip", "siglip2", "aesthetic")})
    expected = {
        f"text_alignment_{kind}": pytest.approx(
            mean_cosine(encoders.images[kind].features(middle), reader.features(text)), abs=1e-6
        )
        for kind, reader in encoders.texts.items()
    }
    rows = encoders.images["clip"].features(rgb_fhwc)
    expected |= {
        "aesthetic_clip": pytest.approx(encoders.aesthetic.score(rows), abs=1e-6),
        "background_consistency_clip": pytest.approx(consistency(rows), abs=1e-6),
    }
    values = document["values"]
    assert {name: value for name, value in values.items() if name != "contrast"} == expected
    assert document["encoders"] == encoders.identities
    silent = scored(clip, "--metric", "contrast", *networks, "--json")
    assert not any("text" in name for name in json.loads(silent.stdout)["videos"][0]["values"])
    long = scored(clip, *networks, "--text", "red " * 80)
    assert "has 82 tokens, of which clip reads 77" in str(long.exception)


def test_a_text_that_nobody_reads_is_refused(tmp_path):
    result = scored(tmp_path / "absent.mp4", "--text", "a red ring")
    assert "--text needs a network that reads" in str(result.exception)


@pytest.mark.parametrize("named", ["clip", "clip=", "vgg=x", "clip=absent"])
def test_an_encoder_that_cannot_be_is_refused(named, clip):
    assert isinstance(scored(clip, "--encoder", named).exception, ConfigError)


def test_scoring_loads_no_gpu_stack(clip):
    code = (
        "import sys; from cogvx.__main__ import app\n"
        f"app(['score', {str(clip)!r}], standalone_mode=False)\n"
        "assert not {'torch', 'prefect', 'mlflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)
