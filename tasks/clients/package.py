"""What a registered version contains: the plain adapter file, and code that generates with it.

MLmodel, requirements.txt, ...      MLflow's own: signature, requirements, configuration
serving.py                          the code
artifacts/adapter/                  the adapter file, and nothing else
README.md, card.json, recipe.toml   what a person wants to know of it
"""

import base64
import io
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import mlflow.pyfunc
from mlflow.models import Model, ModelSignature
from mlflow.types.schema import AnyType, ColSpec, DataType, ParamSchema, ParamSpec, Schema
from PIL import Image

from cogvx.adapters.card import ADAPTER_FILE, AdapterCard, read_card
from cogvx.digest import canonical_json, sha256_file
from cogvx.errors import IntegrityError
from cogvx.files import copy_file, write_bytes
from cogvx.shapes import VideoSize
from cogvx.variants import DType, Sampler
from tasks.clients.runs import quiet

ADAPTER_PATH = f"artifacts/adapter/{ADAPTER_FILE}"

_SERVING_CODE = Path(__file__).parents[1] / "registry" / "serving.py"
# sentencepiece and protobuf: the tokenizers of the published bases are SentencePiece models.
_REQUIREMENTS = (
    "mlflow",
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "accelerate",
    "safetensors",
    "av",
    "huggingface_hub",
    "numpy",
    "pandas",
    "pillow",
    "sentencepiece",
    "protobuf",
)
_PROMPT = "a red kite over the sea"
_COLUMNS = ("seed", "steps", "guidance", "scale", "frames", "height", "width")
# MLflow keeps code that it reads from a file in a global for a moment.
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Serving:
    """What a version generates with, unless the caller says otherwise.

    `base` is a folder or a hub id; a folder is kept as its absolute path. `revision` is the hub's
    commit. `max_frames` is the longest video that the base was trained for. `pages` are texts for a
    person that lie beside the model, by the names of their files.
    """

    base: str
    revision: str | None
    dtype: DType
    size: VideoSize
    fps: int
    sampler: Sampler
    steps: int
    guidance: float
    dynamic_guidance: bool = False
    negative_prompt: str = ""
    max_frames: int | None = None
    pages: Mapping[str, str] = field(default_factory=dict)

    def model_config(self, card: AdapterCard, adapter_sha256: str) -> dict[str, object]:
        """The fields of `tasks.registry.serving.Settings`."""
        folder = Path(self.base)
        return {
            "base": str(folder.resolve()) if folder.is_dir() else self.base,
            "revision": self.revision,
            "fingerprint": card.base_fingerprint,
            "adapter_sha256": adapter_sha256,
            "name": card.name,
            "run": card.run,
            "dtype": self.dtype,
            "image_latent_scale": card.image_latent_scale,
            "sampler": self.sampler,
            "steps": self.steps,
            "guidance": self.guidance,
            "dynamic_guidance": self.dynamic_guidance,
            "negative_prompt": self.negative_prompt,
            "frames": self.size.frames,
            "height": self.size.height,
            "width": self.size.width,
            "fps": self.fps,
            "max_frames": self.max_frames,
            "offload": "none",
            "tiling": False,
        }


def write_package(
    folder: Path,
    adapter_file: Path,
    *,
    serving: Serving,
    identity: Mapping[str, str],
) -> Path:
    """Write the folder of an MLflow model below `folder`, touching no server and no run.

    Args:
        folder: An empty folder for what is written.
        adapter_file: Goes in unchanged, as ADAPTER_PATH.
        serving: Defaults of the generation, and pages.
        identity: `model_id`, `run_id` and `artifact_path`, as the server gave them.

    Returns:
        The model's folder.

    Raises:
        IntegrityError: The adapter does not say which base it is for, by its bytes.
    """
    card = read_card(adapter_file)
    if card is None or card.base_fingerprint is None:
        raise IntegrityError(
            f"{adapter_file} has no card that names its base by a fingerprint, so whoever loads it"
            " could not tell a wrong one"
        )
    inside = folder / "adapter"
    copy_file(adapter_file, inside / ADAPTER_FILE)
    package = folder / "model"
    starts_from_image = card.image_latent_scale is not None
    with _one_at_a_time, quiet("mlflow.pyfunc"):
        mlflow.pyfunc.save_model(
            path=str(package),
            python_model=str(_SERVING_CODE),
            artifacts={"adapter": str(inside)},
            mlflow_model=Model(**identity),
            model_config=serving.model_config(card, sha256_file(adapter_file)),
            signature=signature(starts_from_image=starts_from_image),
            input_example=example(starts_from_image=starts_from_image),
            # Named, since MLflow would otherwise load the model to find out, which takes the base.
            pip_requirements=requirements(),
        )
    for name, text in {"card.json": canonical_json(card).decode(), **serving.pages}.items():
        write_bytes(package / name, text.encode())
    return package


def signature(*, starts_from_image: bool) -> ModelSignature:
    """Columns and parameters of `predict`.

    Numbers are of any type: MLflow takes neither an integer for a double, nor, when a row leaves
    its cell empty, a column of integers for a column of integers. An image is of any type, as a
    text is base64 or a path, and bytes are the file itself. `tasks.registry.serving` checks them.
    """
    inputs = [ColSpec(DataType.string, "prompt")]
    inputs += [ColSpec(AnyType(), "image")] if starts_from_image else []
    inputs += [ColSpec(AnyType(), name, required=False) for name in _COLUMNS]
    inputs += [ColSpec(AnyType(), "negative_prompt", required=False)]
    outputs = [
        ColSpec(DataType.string, "prompt"),
        ColSpec(DataType.long, "seed"),
        ColSpec(DataType.string, "path", required=False),
        ColSpec(DataType.string, "video", required=False),
    ]
    params = [
        ParamSpec("output", DataType.string, default="path"),
        ParamSpec("output_dir", DataType.string, default=""),
    ]
    return ModelSignature(Schema(inputs), Schema(outputs), ParamSchema(params))


def example(*, starts_from_image: bool) -> list[dict[str, object]]:
    """A row that a person may change and send."""
    row: dict[str, object] = {"prompt": _PROMPT, "seed": 1}
    if starts_from_image:
        row["image"] = base64.b64encode(_grey_png()).decode("ascii")
    return [row]


def _grey_png() -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (48, 32), "grey").save(written, "PNG")
    return written.getvalue()


def requirements() -> list[str]:
    """What a process needs to load a version, in the versions that it was made with.

    What is not installed here was not needed here. A local part such as `+cpu` names a build, not a
    release, and is left out.
    """
    installed = {item.name.lower() for item in metadata.distributions() if item.name}
    return [
        f"{name}=={metadata.version(name).partition('+')[0]}"
        for name in _REQUIREMENTS
        if name in installed
    ]
