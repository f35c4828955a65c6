"""An image-to-video base is cached by the whole flow, first frames too, and is not trained."""

from pathlib import Path

import pytest

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
def test_an_image_to_video_base_is_cached_and_not_trained(
    forks: Forks, nano_base: Path, prefect_url: str, tmp_path: Path
) -> None:
    (tmp_path / "base").mkdir()
    base = build_image_to_video(nano_base, tmp_path / "base")
    for number in range(CLIPS):
        path = tmp_path / "clips" / f"{number}.mp4"
        write_clip(path, height=48, width=64, frames=40, fps=16, seed=number + 1)
        path.with_suffix(".txt").write_text(f"circle {number}")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.format(base=base, clips=tmp_path / "clips", draws=DRAWS, suite=SUITE))
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
    for command in ("train", "retrain"):
        status, printed = call(command)
        assert status == 2
        assert "is an image-to-video model" in printed
