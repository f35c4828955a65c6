"""The registered model, loaded as an application does: by MLflow alone, outside of this project."""

import json
import subprocess
import sys
from pathlib import Path

import av
import mlflow
import numpy as np
import pytest
import torch
from diffusers import CogVideoXDPMScheduler, CogVideoXPipeline
from mlflow.exceptions import MlflowException

from cogvx.mp4 import read_mp4, write_mp4
from cogvx.shapes import VideoSize
from tasks.clients.package import requirements
from tasks.clients.registry import CHAMPION, Registry, Serving
from tests.adapters.toys import toy_adapter

SIZE = VideoSize(9, 48, 48)
STEPS = 2
PROMPT = "a red circle moves left"

APPLICATION = """
import json
import sys

import mlflow

uri, model, rows, folder = sys.argv[1:]
mlflow.set_tracking_uri(uri)
loaded = mlflow.pyfunc.load_model(model)
answers = loaded.predict(json.loads(rows), params={"output_dir": folder})
ours = [name for name in sys.modules if name.split(".")[0] in ("cogvx", "tasks", "flows")]
print(json.dumps({"answers": answers, "ours": ours}))
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serving")


@pytest.fixture(scope="module")
def adapter(nano_base: Path, root: Path) -> Path:
    return toy_adapter(nano_base, root / "adapter")


@pytest.fixture(scope="module")
def registry(nano_base: Path, root: Path, adapter: Path) -> Registry:
    """A registry with one champion called `style`, over the nano base."""
    registry = Registry(f"sqlite:///{root / 'mlflow.db'}", root / "artifacts")
    serving = Serving(
        base=str(nano_base),
        revision=None,
        dtype="float32",
        size=SIZE,
        fps=8,
        sampler="dpm",
        steps=STEPS,
        guidance=6.0,
    )
    run_id = registry.start_run("style", "training", tags={})
    version = registry.register("style", adapter, run_id=run_id, serving=serving)
    registry.promote("style", version.version, expected_champion=None)
    return registry


@pytest.fixture(scope="module")
def answers(registry: Registry, root: Path) -> list[dict[str, object]]:
    """What the application got for two rows, one of them with everything given."""
    elsewhere = root / "elsewhere"
    elsewhere.mkdir()
    rows = [
        {"prompt": PROMPT, "seed": 7},
        {"prompt": PROMPT, "steps": 1, "frames": 17, "height": 32, "width": 64, "guidance": 1.0},
    ]
    told = subprocess.run(
        [
            sys.executable,
            "-P",
            "-c",
            APPLICATION,
            registry.tracking_uri,
            f"models:/style@{CHAMPION}",
            json.dumps(rows),
            str(root / "videos"),
        ],
        check=True,
        cwd=elsewhere,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    reply = json.loads(told.splitlines()[-1])
    assert reply["ours"] == []
    assert not list(elsewhere.iterdir())
    found: list[dict[str, object]] = reply["answers"]
    return found


def test_the_champion_writes_a_playable_mp4_without_this_project(
    answers: list[dict[str, object]], root: Path
) -> None:
    path = Path(str(answers[0]["path"]))
    assert path.parent == root / "videos"
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert stream.codec_context.name == "h264"
        assert stream.average_rate == 8
    assert len(frames) == SIZE.frames
    assert frames[0].shape == (SIZE.height, SIZE.width, 3)
    assert answers[0] == {"prompt": PROMPT, "seed": 7, "path": str(path)}


def test_a_row_may_choose_its_own_size_and_leave_the_rest_out(
    answers: list[dict[str, object]],
) -> None:
    video = read_mp4(Path(str(answers[1]["path"])))
    assert video.rgb_fhwc.shape == (17, 32, 64, 3)
    assert answers[1]["seed"] == 0


def test_the_video_is_what_plain_diffusers_makes_with_the_file(
    answers: list[dict[str, object]], adapter: Path, nano_base: Path, tmp_path: Path
) -> None:
    pipeline = CogVideoXPipeline.from_pretrained(nano_base, torch_dtype=torch.float32)
    pipeline.scheduler = CogVideoXDPMScheduler.from_config(
        pipeline.scheduler.config, timestep_spacing="trailing"
    )
    pipeline.set_progress_bar_config(disable=True)

    def generate(path: Path) -> np.ndarray:
        frames = pipeline(
            prompt=PROMPT,
            height=SIZE.height,
            width=SIZE.width,
            num_frames=SIZE.frames,
            num_inference_steps=STEPS,
            guidance_scale=6.0,
            max_sequence_length=pipeline.transformer.config.max_text_seq_length,
            generator=torch.Generator().manual_seed(7),
            output_type="np",
        ).frames[0]
        write_mp4(path, (frames * 255).round().astype(np.uint8), fps=8)
        return read_mp4(path).rgb_fhwc

    served = read_mp4(Path(str(answers[0]["path"]))).rgb_fhwc
    assert not np.array_equal(generate(tmp_path / "base.mp4"), served)
    pipeline.load_lora_weights(str(adapter.parent))
    assert np.array_equal(generate(tmp_path / "adapter.mp4"), served)


def test_a_row_that_cannot_be_made_is_refused_by_what_is_wrong(registry: Registry) -> None:
    mlflow.set_tracking_uri(registry.tracking_uri)
    try:
        loaded = mlflow.pyfunc.load_model(f"models:/style@{CHAMPION}")
    finally:
        mlflow.set_tracking_uri(None)
    for row, wrong in (
        ({"prompt": " "}, "needs a .prompt."),
        ({"prompt": PROMPT, "frames": 5}, "frames = 5 is not a multiple of 8, plus 1"),
        ({"prompt": PROMPT, "height": 20}, "20x48 is not in multiples of 8"),
        ({"prompt": PROMPT, "seed": "seven"}, "not in numbers: .*'seven'"),
        ({"seed": 1}, "prompt"),
    ):
        with pytest.raises(MlflowException, match=wrong):
            loaded.predict([row])


def test_the_version_names_its_requirements_with_versions(registry: Registry, root: Path) -> None:
    (listed,) = (root / "artifacts").rglob("requirements.txt")
    lines = listed.read_text().splitlines()
    assert lines == requirements()
    assert {"mlflow", "torch", "diffusers", "peft", "av"} <= {line.split("==")[0] for line in lines}
    assert all("==" in line and "+" not in line for line in lines)
    assert not [line for line in lines if line.startswith("cogvx")]
