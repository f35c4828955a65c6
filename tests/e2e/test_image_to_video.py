"""An image-to-video base is cached, trained and registered by the real commands, not judged."""

from pathlib import Path

import mlflow
import pytest
from PIL import Image

from cogvx.adapters.card import ADAPTER_FILE, read_card
from cogvx.mp4 import read_label, read_mp4
from tests.data.clips import write_clip
from tests.e2e.conftest import make_place
from tests.encoding.benches import build_image_to_video
from tests.fixtures.forks import Forks

CLIPS, DRAWS = 4, 3
SUITE = Path(__file__).parents[2] / "deployments" / "suites" / "nano.toml"
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
suite = "{suite}"
"""


@pytest.mark.timeout(600)
def test_an_image_to_video_base_is_cached_trained_and_registered_and_not_judged(
    forks: Forks, nano_base: Path, prefect_url: str, tmp_path: Path
) -> None:
    (tmp_path / "base").mkdir()
    base = build_image_to_video(nano_base, tmp_path / "base")
    for number in range(CLIPS):
        path = tmp_path / "clips" / f"{number}.mp4"
        write_clip(path, height=48, width=64, frames=40, fps=16, seed=number + 1)
        path.with_suffix(".txt").write_text(f"circle {number}")
    recipe = tmp_path / "recipe.toml"
    settings = {"base": base, "clips": tmp_path / "clips", "draws": DRAWS, "suite": SUITE}
    recipe.write_text(RECIPE.format(scale="", **settings))
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
    for command in ("evaluate", "promote", "retrain"):
        status, printed = call(command)
        assert status == 2
        assert "registers and generates with, but does not judge" in printed
    status, printed = call("register")
    assert status == 0, printed

    model = mlflow.pyfunc.load_model(
        str(next((place.home / "mlflow-artifacts").rglob("MLmodel")).parent)
    )
    picture = tmp_path / "first.png"
    Image.new("RGB", (90, 60), "navy").save(picture)
    row = {"prompt": "circle", "image": str(picture), "steps": 2, "guidance": 1.0}
    (answer,) = model.predict([row], params={"output_dir": str(tmp_path / "out")})
    assert read_mp4(Path(answer["path"])).rgb_fhwc.shape == (17, 32, 48, 3)
    assert read_label(Path(answer["path"]))["cogvx_image_scale"] == '"raw"'
