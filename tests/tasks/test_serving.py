"""The registered model, loaded as an application does: by MLflow alone, outside of this project."""

import base64
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import diffusers
import mlflow
import numpy as np
import pytest
import torch
from diffusers import CogVideoXDPMScheduler, CogVideoXPipeline
from mlflow import MlflowClient

from cogvx.adapters.export import export_adapter
from cogvx.digest import sha256_file
from cogvx.model.identity import BASE_PARTS, fingerprint
from cogvx.mp4 import read_mp4, write_mp4
from cogvx.shapes import VideoSize
from cogvx.variants import COGVIDEOX_5B
from tasks.clients.model_card import ModelPage, Taught, artifact_link, model_card
from tasks.clients.package import requirements
from tasks.clients.registry import CHAMPION, Registry, Serving
from tests.adapters.toys import toy_card, trained
from tests.cache.toys import recipe
from tests.fixtures.installed import modules_beyond
from tests.fixtures.servers import free_port, listens, mlflow_server, running, wait_until

SIZE = VideoSize(9, 48, 48)
STEPS = 2
PROMPT = "a red circle moves left"
ROWS: list[dict[str, Any]] = [
    {"prompt": PROMPT, "seed": 7},
    {"prompt": PROMPT, "steps": 1, "frames": 17, "height": 32, "width": 64, "guidance": 1.0},
    {"prompt": PROMPT, "seed": 7, "scale": 2.0},
    {"prompt": PROMPT, "seed": 7, "scale": 0},
    {"prompt": PROMPT, "seed": 7, "scale": 0.5, "negative_prompt": "blue"},
]
FORBID = """
import sys

sys.modules.update(dict.fromkeys({names}))
"""
APPLICATION = """
import json

import mlflow

uri, model, rows, folder = sys.argv[1:]
mlflow.set_tracking_uri(uri)
loaded = mlflow.pyfunc.load_model(model)
answers = loaded.predict(json.loads(rows), params={"output_dir": folder})
print(json.dumps(answers))
"""


@dataclass(frozen=True)
class Outside:
    """What an application was answered, and the address of a model behind HTTP."""

    answers: list[dict[str, Any]]
    served: str


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serving")


@pytest.fixture(scope="module")
def adapter(nano_base: Path, root: Path) -> Path:
    card = toy_card(base_fingerprint=fingerprint(nano_base, BASE_PARTS))
    return export_adapter(trained(nano_base), root / "adapter", card=card)


@pytest.fixture(scope="module")
def registry(nano_base: Path, root: Path, adapter: Path) -> Iterator[Registry]:
    """A server with one champion called `style`, over the nano base; it hands artifacts on."""
    serving = Serving(
        base=str(nano_base),
        revision=None,
        dtype="float32",
        size=SIZE,
        fps=8,
        sampler="dpm",
        steps=STEPS,
        guidance=6.0,
        max_frames=49,
    )
    (root / "server").mkdir()
    with mlflow_server(root / "server") as url:
        registry = Registry(url)
        run_id = registry.start_run("style", "training", tags={})
        version = registry.register("style", adapter, run_id=run_id, serving=serving)
        registry.promote("style", version.version, expected_champion=None)
        yield registry


@pytest.fixture(scope="module")
def outside(registry: Registry, nano_base: Path, root: Path) -> Iterator[Outside]:
    """Two processes that know MLflow's address alone, in a folder with nothing in it."""
    elsewhere, hook, log = root / "elsewhere", root / "hook", root / "served.log"
    elsewhere.mkdir()
    hook.mkdir()
    forbid = FORBID.format(names=sorted(forbidden(root)))
    (hook / "sitecustomize.py").write_text(forbid)
    port, model = free_port(), f"models:/style@{CHAMPION}"
    serve = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
    serve += ["--host", "127.0.0.1", "--port", str(port), "--model-uri", model]
    # it looks for uvicorn where a shell would
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    uri = registry.tracking_uri
    given = {"PATH": path, "PYTHONPATH": str(hook), "MLFLOW_TRACKING_URI": uri}
    # as on another machine: the same base in another place
    (root / "moved").symlink_to(nano_base)
    given["MLFLOW_PYFUNC_INFERENCE_CONFIG"] = json.dumps({"base": str(root / "moved")})
    call = [sys.executable, "-I", "-c", forbid + APPLICATION, uri, model]
    with ExitStack() as stack:
        process = stack.enter_context(running(serve, log, {**os.environ, **given}))
        told = subprocess.run(
            [*call, json.dumps(ROWS), str(root / "videos")],
            check=True,
            cwd=elsewhere,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
        assert not list(elsewhere.iterdir())
        wait_until(lambda: listens(port), process, log)
        yield Outside(json.loads(told.splitlines()[-1]), f"http://127.0.0.1:{port}/invocations")


def listed_requirements(root: Path) -> list[str]:
    """The lines of the requirements that the one version at the server has."""
    (listed,) = (root / "server" / "artifacts").rglob("requirements.txt")
    return listed.read_text().splitlines()


def forbidden(root: Path) -> set[str]:
    """What an application has not got that installed what the version asks for, and no more."""
    return {"tests", *modules_beyond(listed_requirements(root))}


def ask(url: str, rows: list[dict[str, Any]], **params: str) -> tuple[int, dict[str, Any]]:
    """What a model behind HTTP answers."""
    body = json.dumps({"dataframe_records": rows, "params": params}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_nothing_but_what_the_version_requires_can_be_imported_there(
    registry: Registry, root: Path
) -> None:
    assert registry.versions("style")
    out_of_reach = forbidden(root)
    assert {"cogvx", "tasks", "flows", "prefect", "boto3", "pytest", "moto"} <= out_of_reach
    assert not {"mlflow", "torch", "diffusers", "peft", "tokenizers", "fastapi"} & out_of_reach
    for forgotten in ("av", "peft", "diffusers", "sentencepiece"):
        rest = [line for line in listed_requirements(root) if not line.startswith(forgotten)]
        assert forgotten in modules_beyond(rest)


def test_a_process_with_mlflow_and_what_the_version_requires_gets_a_playable_mp4_of_the_champion(
    outside: Outside, root: Path, adapter: Path
) -> None:
    path = Path(outside.answers[0]["path"])
    assert path.parent == root / "videos"
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert stream.codec_context.name == "h264"
        assert stream.average_rate == 8
        told = {
            name: json.loads(text) for name, text in container.metadata.items() if "cogvx_" in name
        }
    assert len(frames) == SIZE.frames
    assert frames[0].shape == (SIZE.height, SIZE.width, 3)
    assert outside.answers[0] == {"prompt": PROMPT, "seed": 7, "path": str(path)}
    assert told["cogvx_model"] == "style/1"
    assert told["cogvx_adapters"] == [
        {"name": "toy", "sha256": sha256_file(adapter), "weight": 1.0}
    ]
    assert (told["cogvx_seed"], told["cogvx_steps"], told["cogvx_prompt"]) == (7, STEPS, PROMPT)


def test_a_row_may_choose_its_own_size_and_leave_the_rest_out(outside: Outside) -> None:
    video = read_mp4(Path(outside.answers[1]["path"]))
    assert video.rgb_fhwc.shape == (17, 32, 64, 3)
    assert outside.answers[1]["seed"] == 0


def test_a_request_over_http_is_answered_with_the_same_video(outside: Outside, root: Path) -> None:
    status, answer = ask(outside.served, ROWS[:1], output="base64")
    assert status == 200
    (prediction,) = answer["predictions"]
    video = base64.b64decode(prediction["video"], validate=True)
    assert video == Path(outside.answers[0]["path"]).read_bytes()
    path = root / "over-http.mp4"
    path.write_bytes(video)
    assert read_mp4(path).rgb_fhwc.shape == (SIZE.frames, SIZE.height, SIZE.width, 3)


def test_requests_at_the_same_time_get_each_its_own_scale(outside: Outside) -> None:
    numbers = (0, 2, 3, 0, 3, 2)
    with ThreadPoolExecutor(len(numbers)) as pool:
        asked = [pool.submit(ask, outside.served, [ROWS[n]], output="base64") for n in numbers]
        answers = [one.result()[1]["predictions"][0]["video"] for one in asked]
    for number, video in zip(numbers, answers, strict=True):
        assert base64.b64decode(video) == Path(outside.answers[number]["path"]).read_bytes()


def test_a_request_over_http_is_refused_with_every_problem(outside: Outside) -> None:
    rows = [{"prompt": " "}, {"prompt": PROMPT, "steps": 3, "frames": 5}]
    status, answer = ask(outside.served, rows, output="base64")
    assert (status, answer["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert "rows[0].prompt is empty" in answer["message"]
    assert "rows[1].steps = 3 does not divide 1000; use 2" in answer["message"]
    status, answer = ask(outside.served, ROWS[:1], output_dir="/tmp/x")
    assert status == 400
    assert 'output_dir = "/tmp/x" is on the server; use output = "base64"' in answer["message"]


def test_the_video_is_what_plain_diffusers_makes_at_every_scale(
    outside: Outside, adapter: Path, nano_base: Path, tmp_path: Path
) -> None:
    pipeline = CogVideoXPipeline.from_pretrained(nano_base, torch_dtype=torch.float32)
    pipeline.scheduler = CogVideoXDPMScheduler.from_config(
        pipeline.scheduler.config, timestep_spacing="trailing"
    )
    pipeline.set_progress_bar_config(disable=True)

    def generate(negative_prompt: str = "") -> np.ndarray:
        frames = pipeline(
            prompt=PROMPT,
            negative_prompt=negative_prompt,
            height=SIZE.height,
            width=SIZE.width,
            num_frames=SIZE.frames,
            num_inference_steps=STEPS,
            guidance_scale=6.0,
            max_sequence_length=pipeline.transformer.config.max_text_seq_length,
            generator=torch.Generator().manual_seed(7),
            output_type="np",
        ).frames[0]
        write_mp4(tmp_path / "video.mp4", (frames * 255).round().astype(np.uint8), fps=8)
        return read_mp4(tmp_path / "video.mp4").rgb_fhwc

    full, _, double, bare, half = (
        read_mp4(Path(answer["path"])).rgb_fhwc for answer in outside.answers
    )
    assert np.array_equal(generate(), bare)
    pipeline.load_lora_weights(str(adapter.parent), adapter_name="one")
    assert np.array_equal(generate(), full)
    pipeline.set_adapters(["one"], [2.0])
    assert np.array_equal(generate(), double)
    pipeline.set_adapters(["one"], [0.5])
    assert np.array_equal(generate("blue"), half)
    assert not np.array_equal(bare, full)
    assert not np.array_equal(double, full)


def test_what_the_page_says_to_write_for_diffusers_loads_the_champion(
    registry: Registry, nano_base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = toy_card(base_path=str(nano_base))
    page = ModelPage("style", card, recipe(), COGVIDEOX_5B, Taught("clips", 1, 1))
    told = next(part for part in model_card(page).split("```python") if "pipe." in part)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.tracking_uri)
    names: dict[str, Any] = {**vars(diffusers), "torch": torch, "mlflow": mlflow}
    exec(told.partition("```")[0], names)
    (one,) = names["pipe"].transformer.peft_config.values()
    assert (one.r, one.lora_alpha) == (8, 8)
    assert isinstance(names["pipe"].scheduler, CogVideoXDPMScheduler)
    assert names["pipe"].scheduler.config.timestep_spacing == "trailing"


def test_a_picture_in_a_description_is_found_by_a_browser_at_the_server(
    registry: Registry, tmp_path: Path
) -> None:
    version = registry.version("style", 1)
    (tmp_path / "frames.png").write_bytes(b"frames")
    registry.log_artifact(version.run_id, tmp_path / "frames.png", folder="card")
    link = artifact_link(version.run_id, "card/frames.png")
    with urllib.request.urlopen(f"{registry.tracking_uri}/{link}", timeout=60) as answer:
        assert answer.read() == b"frames"
    text = f"# A page\n\n![frames]({link})"
    registry.describe_version("style", 1, text)
    client = MlflowClient(registry.tracking_uri)
    assert client.get_model_version("style", "1").description == text


def test_the_version_names_its_requirements_with_versions(
    registry: Registry, outside: Outside, root: Path
) -> None:
    lines = listed_requirements(root)
    assert lines == requirements()
    assert {"mlflow", "torch", "diffusers", "peft", "av"} <= {line.split("==")[0] for line in lines}
    assert all("==" in line and "+" not in line for line in lines)
    assert not [line for line in lines if line.startswith("cogvx")]
