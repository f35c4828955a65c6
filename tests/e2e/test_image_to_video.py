"""An adapter of first frames is cached, trained, registered and judged by the real commands."""

from pathlib import Path

import mlflow
import pytest
from PIL import Image

from cogvx.adapters.card import ADAPTER_FILE, read_card
from cogvx.evaluation.documents import EvaluationReport
from cogvx.mp4 import read_label, read_mp4
from tests.data.clips import write_clip
from tests.e2e.conftest import make_place
from tests.encoding.benches import build_image_to_video
from tests.fixtures.forks import Forks

CLIPS, DRAWS = 4, 3
SUITE = """
name = "{split}"
split = "{split}"
seeds = [1]
[sampling]
steps = 2
guidance = 1.0
sampler = "dpm"
[[prompts]]
id = "circle"
prompt = "a circle, {split}"
{first}
[[prompts]]
id = "square"
prompt = "a square, {split}"
group = "trigger_free"
{second}
[gate]
primaries = ["heldout_loss"]
screen = false
second_look = false
"""
RECIPE = """
name = "frames"
[base]
path = "{base}"
dtype = "bfloat16"
{scale}
[dataset]
uri = "{clips}"
[video]
frames = 17
height = 32
width = 48
fps = 16
[cache]
image_draws = {draws}
[lora]
rank = 8
alpha = 8
allow_unusual = true
[train]
steps = 4
warmup_steps = 0
[evaluation]
suite = "{folder}/gate.toml"
[evaluation.sweep]
suite = "{folder}/dev.toml"
weights = [0.5, 1.0]
"""


def write_suites(folder: Path, first: str, second: str) -> None:
    """Both suites of the recipe, with what their two prompts say of first frames."""
    for split in ("gate", "dev"):
        text = SUITE.format(split=split, first=first, second=second)
        (folder / f"{split}.toml").write_text(text)


def require_judged_by_first_frames(home: Path) -> None:
    """The report has all that those of text-to-video adapters have, of videos that all differ."""
    (path,) = (home / "reports").rglob("report.json")
    report = EvaluationReport.model_validate_json(path.read_text())
    assert report.verdict.outcome != "INVALID"
    assert {arm.role for arm in report.arms} == {"reference", "candidate"}
    assert {(loss.arm, loss.timestep) for loss in report.heldout}
    metrics = {score.metric for score in report.scores} | {one.metric for one in report.readings}
    assert {"temporal_flickering", "base_distance", "base_drift"} <= metrics
    assert {(point.weight, point.metric) for point in report.sweep} >= {
        (weight, metric)
        for weight in (0.0, 0.5, 1.0)
        for metric in ("heldout_loss", "base_drift", "base_distance", "contrast")
    }
    drawn = list((home / "store" / "videos").rglob("*.mp4"))
    # base and challenger on two prompts, and on two others with the challenger at half its weight
    assert len(drawn) == 2 * 2 + 3 * 2
    assert len({path.read_bytes() for path in drawn}) == len(drawn)


def require_served(home: Path, picture: Path) -> None:
    """The version in MLflow generates from a picture, scaled as it was trained with."""
    model = mlflow.pyfunc.load_model(str(next((home / "mlflow-artifacts").rglob("MLmodel")).parent))
    row = {"prompt": "circle", "image": str(picture), "steps": 2, "guidance": 1.0}
    (answer,) = model.predict([row], params={"output_dir": str(home / "out")})
    assert read_mp4(Path(answer["path"])).rgb_fhwc.shape == (17, 32, 48, 3)
    assert read_label(Path(answer["path"]))["cogvx_image_scale"] == '"raw"'


@pytest.mark.timeout(600)
def test_an_adapter_of_first_frames_is_cached_trained_registered_and_judged(
    forks: Forks, nano_base: Path, prefect_url: str, tmp_path: Path
) -> None:
    (tmp_path / "base").mkdir()
    base = build_image_to_video(nano_base, tmp_path / "base")
    for number in range(CLIPS):
        path = tmp_path / "clips" / f"{number}.mp4"
        write_clip(path, height=48, width=64, frames=40, fps=16, seed=number + 1)
        path.with_suffix(".txt").write_text(f"circle {number}")
    recipe = tmp_path / "recipe.toml"
    settings = {"base": base, "clips": tmp_path / "clips", "draws": DRAWS, "folder": tmp_path}
    recipe.write_text(RECIPE.format(scale="", **settings))
    write_suites(tmp_path, "", "")
    place = make_place(tmp_path, recipe, PREFECT_API_URL=prefect_url)

    def call(command: str) -> tuple[int, str]:
        job = forks.start(
            "tests.fixtures.forks:call_cli",
            command,
            str(recipe),
            environment=place.environment,
            cwd=tmp_path,
        )
        return job.wait(), job.output.read_text()

    status, printed = call("cache")
    assert status == 0, printed
    kinds = {
        kind: len(list((place.home / "store" / "records" / kind).rglob("*.safetensors")))
        for kind in ("latents", "images", "prompts")
    }
    assert kinds == {"latents": CLIPS, "images": CLIPS * DRAWS, "prompts": CLIPS + 1}
    status, printed = call("train")
    assert status == 2
    assert "base.image_latent_scale is missing" in printed

    recipe.write_text(RECIPE.format(scale='image_latent_scale = "raw"', **settings))
    status, printed = call("train")
    assert status == 0, printed
    (adapter,) = (place.home / "store" / "adapters").rglob(ADAPTER_FILE)
    card = read_card(adapter)
    assert card is not None
    assert (card.image_latent_scale, card.base_dtype, card.steps) == ("raw", "bfloat16", 4)
    for command in ("evaluate", "retrain"):
        status, printed = call(command)
        assert status == 2
        assert printed.count("image is missing, and the base starts from a first frame") == 4
    status, printed = call("register")
    assert status == 0, printed

    for number, shade in enumerate(("navy", "olive")):
        Image.new("RGB", (90, 60), shade).save(tmp_path / f"{number}.png")
    write_suites(tmp_path, 'image = "0.png"', 'image = "1.png"')
    for videos in ("4 rendered, 0 reused", "0 rendered, 4 reused"):
        status, printed = call("evaluate")
        assert status == 0, printed
        assert videos in printed
    require_judged_by_first_frames(place.home)
    require_served(place.home, tmp_path / "0.png")
