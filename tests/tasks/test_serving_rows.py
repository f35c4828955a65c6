"""What the registered model refuses, and how it starts from an image; all in this process."""

import base64
import hashlib
import io
import shutil
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, cast

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from PIL import Image

from cogvx.adapters.export import export_adapter
from cogvx.inference.image import load_image
from cogvx.inference.request import Request, Sampling
from cogvx.inference.session import Session
from cogvx.model.identity import BASE_PARTS, fingerprint
from cogvx.mp4 import read_label, read_mp4, write_mp4
from cogvx.shapes import VideoSize
from cogvx.variants import ImageScale
from tasks.clients.package import Serving, example, signature, write_package
from tests.adapters.toys import toy_card, trained
from tests.encoding.benches import build_image_to_video

PROMPT = "a red circle moves left"
SIZES = {"text": VideoSize(9, 48, 48), "image": VideoSize(17, 32, 48)}
ARTIFACT = {"model_id": "m-1", "run_id": "run", "artifact_path": "adapter"}

Package = Callable[[str, ImageScale | None], Path]


@pytest.fixture(scope="module")
def bases(nano_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base that starts from a prompt, and one that starts from an image."""
    folder = tmp_path_factory.mktemp("image-base")
    return {"text": nano_base, "image": build_image_to_video(nano_base, folder)}


@pytest.fixture(scope="module")
def package(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Package:
    """The folder of a model over a base, with its images scaled in some way."""

    @cache
    def make(kind: str, scale: ImageScale | None) -> Path:
        base, folder = bases[kind], tmp_path_factory.mktemp(kind)
        name = fingerprint(base, BASE_PARTS)
        card = toy_card(base_fingerprint=name, image_latent_scale=scale)
        adapter = export_adapter(trained(base), folder / "made", card=card)
        serving = Serving(str(base), None, "float32", SIZES[kind], 8, "dpm", 2, 6.0, max_frames=49)
        return write_package(folder, adapter, serving=serving, identity=ARTIFACT)

    return make


@pytest.fixture(scope="module")
def model(package: Package) -> Any:
    return mlflow.pyfunc.load_model(str(package("text", None)))


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wider than the video, and larger."""
    pixels = np.random.default_rng(0).integers(0, 256, (50, 90, 3), np.uint8)
    path = tmp_path_factory.mktemp("picture") / "first.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize(
    ("row", "wrong"),
    [
        ({"prompt": " "}, "prompt is empty"),
        ({"prompt": PROMPT, "negative_prompt": 3}, "negative_prompt is no text"),
        ({"prompt": PROMPT, "frames": 5}, "frames = 5 is not a multiple of 8, plus 1"),
        ({"prompt": PROMPT, "frames": 57}, "frames = 57 is too many; use at most 49"),
        ({"prompt": PROMPT, "height": 20}, "height = 20 is not a multiple of 8"),
        ({"prompt": PROMPT, "width": 10**6}, "width = '1000000.0' is not a whole number from 1 to"),
        ({"prompt": PROMPT, "steps": 30}, "steps = 30 does not divide 1000; use 25"),
        ({"prompt": PROMPT, "seed": "seven"}, "seed = 'seven' is not a whole number from 0 to"),
        ({"prompt": PROMPT, "seed": 1.5}, "seed = '1.5' is not a whole number"),
        ({"prompt": PROMPT, "seed": True}, "seed = 'True' is not a whole number"),
        (
            {"prompt": PROMPT, "seed": 2**60},
            "seed = '1.152921504606847e+18' is not a whole number from",
        ),
        ({"prompt": PROMPT, "guidance": 0.5}, "guidance = '0.5' is not a number from 1 to 100"),
        ({"prompt": PROMPT, "scale": float("inf")}, "scale = 'inf' is not a number from -10 to 10"),
    ],
)
def test_a_row_that_cannot_be_made_is_refused_by_what_is_wrong(
    model: Any, row: dict[str, Any], wrong: str
) -> None:
    with pytest.raises(MlflowException) as refused:
        model.predict([{"prompt": PROMPT}, row])
    assert f"rows[1].{wrong}" in refused.value.message
    assert refused.value.error_code == "INVALID_PARAMETER_VALUE"
    assert "rows[0]" not in refused.value.message


def test_all_rows_are_checked_before_the_first_video(model: Any, tmp_path: Path) -> None:
    rows = [{"prompt": PROMPT}, {"prompt": PROMPT, "steps": 7}, {"prompt": "", "seed": -1}]
    with pytest.raises(MlflowException) as refused:
        model.predict(rows, params={"output_dir": str(tmp_path)})
    for where in ("rows[1].steps", "rows[2].prompt", "rows[2].seed"):
        assert where in refused.value.message
    assert not list(tmp_path.iterdir())


def test_what_is_answered_is_chosen_by_its_name(model: Any) -> None:
    with pytest.raises(MlflowException, match=r'output = "gif" is unknown; use one of path, base'):
        model.predict([{"prompt": PROMPT}], params={"output": "gif"})


def test_the_same_row_is_the_same_file_whatever_was_made_before(model: Any, tmp_path: Path) -> None:
    row = {"prompt": PROMPT, "seed": 3}
    others = [{**row, "scale": 0.0}, {**row, "seed": 4}, {**row, "scale": 3.0}]
    (first,) = model.predict([row], params={"output_dir": str(tmp_path / "a")})
    *_, again = model.predict([*others, row], params={"output_dir": str(tmp_path / "b")})
    (inside,) = model.predict([row], params={"output": "base64"})
    data = Path(first["path"]).read_bytes()
    assert Path(again["path"]).read_bytes() == data
    assert base64.b64decode(inside["video"]) == data
    assert Path(first["path"]).name == Path(again["path"]).name
    assert len(list((tmp_path / "b").iterdir())) == 4
    assert not list(tmp_path.rglob(".aside*"))


def test_a_base_is_named_by_its_bytes_wherever_it_lies(
    package: Package, bases: dict[str, Path], tmp_path: Path
) -> None:
    """As the library names it: the served file has an algorithm of its own."""
    moved = tmp_path / "moved"
    shutil.copytree(bases["text"], moved)
    (moved / "transformer" / ".hidden.json").write_text("{}")
    (moved / "README.md").write_text("not content")
    loaded = mlflow.pyfunc.load_model(str(package("text", None)), model_config={"base": str(moved)})
    here = served_file(loaded).fingerprint(moved)
    assert here == fingerprint(moved, BASE_PARTS) == fingerprint(bases["text"], BASE_PARTS)

    with (moved / "vae" / "config.json").open("a") as file:
        file.write(" ")
    with pytest.raises(MlflowException) as refused:
        mlflow.pyfunc.load_model(str(package("text", None)), model_config={"base": str(moved)})
    for told in (fingerprint(moved, BASE_PARTS), here, str(moved)):
        assert told in refused.value.message
    shutil.rmtree(moved / "vae")
    with pytest.raises(MlflowException, match="vae/ is missing"):
        mlflow.pyfunc.load_model(str(package("text", None)), model_config={"base": str(moved)})
    shutil.rmtree(moved)
    with pytest.raises(MlflowException, match="no folder on this machine; give its place here"):
        mlflow.pyfunc.load_model(str(package("text", None)), model_config={"base": str(moved)})


def test_another_adapter_than_the_registered_one_is_refused(
    package: Package, tmp_path: Path
) -> None:
    shutil.copytree(package("text", None), tmp_path / "model")
    (path,) = (tmp_path / "model").rglob("*.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(MlflowException, match="the adapter at") as refused:
        mlflow.pyfunc.load_model(str(tmp_path / "model"))
    assert hashlib.sha256(data).hexdigest() in refused.value.message


@pytest.mark.parametrize("scale", ["multiplied", "divided", "raw"])
def test_an_image_starts_the_video_that_a_session_makes(
    scale: ImageScale, package: Package, bases: dict[str, Path], picture: Path, tmp_path: Path
) -> None:
    folder, size = package("image", scale), SIZES["image"]
    model = mlflow.pyfunc.load_model(str(folder))
    row = {"prompt": PROMPT, "seed": 5, "guidance": 1.0}
    png = picture.read_bytes()
    told = [str(picture), png, base64.b64encode(png).decode()]
    told.append(f"data:image/png;base64,{told[2]}")
    rows = [{**row, "image": image} for image in (told if scale == "raw" else told[:1])]
    answers = model.predict(rows, params={"output_dir": str(tmp_path)})
    assert len({answer["path"] for answer in answers}) == 1
    served = Path(answers[0]["path"])
    assert read_label(served)["cogvx_image_scale"] == f'"{scale}"'

    session = Session.open(bases["image"], dtype="float32", image_scale=scale)
    (adapter,) = folder.rglob("*.safetensors")
    session.attach("one", adapter)
    session.use({"one": 1.0})
    rgb_fhwc = session.generate(
        Request(
            prompt=PROMPT,
            seed=5,
            size=size,
            fps=8,
            sampling=Sampling(steps=2, guidance=1.0, sampler="dpm"),
            image_hwc=load_image(picture, size),
        )
    )
    write_mp4(tmp_path / "session.mp4", rgb_fhwc, fps=8)
    expected = read_mp4(tmp_path / "session.mp4").rgb_fhwc
    # each sums what the adapter adds in an order of its own
    assert np.abs(read_mp4(served).rgb_fhwc.astype(int) - expected).max() <= 2


def test_the_scale_of_the_first_frame_decides_the_video(package: Package, picture: Path) -> None:
    rows = [{"prompt": PROMPT, "image": str(picture), "guidance": 1.0}]
    videos = set()
    for scale in ("multiplied", "divided", "raw"):
        model = mlflow.pyfunc.load_model(str(package("image", cast("ImageScale", scale))))
        (answer,) = model.predict(rows)
        videos.add(read_mp4(Path(answer["path"])).rgb_fhwc.tobytes())
    assert len(videos) == 3


def test_an_image_is_asked_for_and_read_with_suspicion(
    package: Package, picture: Path, monkeypatch: pytest.MonkeyPatch, model: Any
) -> None:
    frames = mlflow.pyfunc.load_model(str(package("image", "raw")))
    bomb, deep = io.BytesIO(), io.BytesIO()
    Image.new("1", (9000, 9000)).save(bomb, "PNG")
    Image.new("I;16", (8, 8)).save(deep, "PNG")
    for image, wrong in (
        (None, "image is missing"),
        ("not base64!", "image cannot be read as one of PNG, JPEG, WEBP"),
        (b"GIF89a", "image cannot be read"),
        (picture.read_bytes()[:400], "image cannot be read"),
        (bomb.getvalue(), "it has more than 67108864 pixels"),
        (deep.getvalue(), "more than 8 bits a colour"),
        (12, "it is a int"),
    ):
        with pytest.raises(MlflowException, match=wrong):
            frames.predict([{"prompt": PROMPT, "image": image}])
    rows = pd.DataFrame([{"prompt": PROMPT, "image": str(picture)}])
    with pytest.raises(MlflowException, match="starts from the prompt alone"):
        model.unwrap_python_model().predict(None, rows)
    monkeypatch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")
    with pytest.raises(MlflowException, match="image cannot be read"):
        frames.predict([{"prompt": PROMPT, "image": str(picture)}])


def test_the_signature_has_an_image_where_the_base_starts_from_one(package: Package) -> None:
    for kind, scale in (("text", None), ("image", "raw")):
        saved = mlflow.models.Model.load(str(package(kind, cast("ImageScale", scale))))
        asked = saved.signature.inputs.input_names()
        assert ("image" in asked) == (kind == "image")
        assert {"prompt", "seed", "steps", "guidance", "negative_prompt", "scale"} <= set(asked)
        assert {name.name for name in saved.signature.params.params} == {"output", "output_dir"}
        rows = saved.load_input_example(str(package(kind, cast("ImageScale", scale))))
        assert rows == example(starts_from_image=kind == "image")
    assert signature(starts_from_image=True).inputs.required_input_names() == ["prompt", "image"]


def served_file(loaded: Any) -> Any:
    """The module that MLflow made of it."""
    return sys.modules[type(loaded.unwrap_python_model()).__module__]
