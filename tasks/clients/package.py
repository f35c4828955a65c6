"""What a registered version contains: the plain adapter file, and code that generates with it."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import mlflow.pyfunc
from mlflow.models import Model, ModelSignature
from mlflow.types.schema import AnyType, ColSpec, DataType, ParamSchema, ParamSpec, Schema

from cogvx.adapters.card import ADAPTER_FILE
from cogvx.files import copy_file
from cogvx.shapes import VideoSize
from cogvx.variants import DType, Sampler
from tasks.clients.runs import quiet

ADAPTER_PATH = f"artifacts/adapter/{ADAPTER_FILE}"

_SERVING_CODE = Path(__file__).parents[1] / "serving.py"
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
    "numpy",
    "sentencepiece",
    "protobuf",
)
_EXAMPLE = [{"prompt": "a red kite over the sea", "seed": 1}]
# MLflow keeps code that it reads from a file in a global for a moment.
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Serving:
    """What a version generates with, unless the caller says otherwise.

    `base` is a folder or a hub id; a folder is kept as its absolute path.
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

    def model_config(self) -> dict[str, object]:
        """The fields of `tasks.serving.Settings`."""
        folder = Path(self.base)
        return {
            "base": str(folder.resolve()) if folder.is_dir() else self.base,
            "revision": self.revision,
            "dtype": self.dtype,
            "sampler": self.sampler,
            "steps": self.steps,
            "guidance": self.guidance,
            "dynamic_guidance": self.dynamic_guidance,
            "negative_prompt": self.negative_prompt,
            "frames": self.size.frames,
            "height": self.size.height,
            "width": self.size.width,
            "fps": self.fps,
        }


def write_package(
    folder: Path, adapter_file: Path, *, serving: Serving, identity: Mapping[str, str]
) -> Path:
    """Write the folder of an MLflow model below `folder`, touching no server and no run.

    Args:
        folder: An empty folder for what is written.
        adapter_file: Goes in unchanged, as ADAPTER_PATH.
        serving: Defaults of the generation.
        identity: `model_id`, `run_id` and `artifact_path`, as the server gave them.

    Returns:
        The model's folder.
    """
    inside = folder / "adapter"
    copy_file(adapter_file, inside / ADAPTER_FILE)
    package = folder / "model"
    with _one_at_a_time, quiet("mlflow.pyfunc"):
        mlflow.pyfunc.save_model(
            path=str(package),
            python_model=str(_SERVING_CODE),
            artifacts={"adapter": str(inside)},
            mlflow_model=Model(**identity),
            model_config=serving.model_config(),
            signature=signature(),
            input_example=_EXAMPLE,
            # Named, since MLflow would otherwise load the model to find out, which takes the base.
            pip_requirements=requirements(),
        )
    return package


def signature() -> ModelSignature:
    """Columns and parameters of `predict`.

    Numbers are of any type: MLflow takes neither an integer for a double, nor, when a row leaves
    its cell empty, a column of integers for a column of integers. `tasks.serving` checks them.
    """
    optional = ("seed", "steps", "guidance", "frames", "height", "width")
    inputs = [ColSpec(DataType.string, "prompt")]
    inputs += [ColSpec(AnyType(), name, required=False) for name in optional]
    outputs = [
        ColSpec(DataType.string, "prompt"),
        ColSpec(DataType.long, "seed"),
        ColSpec(DataType.string, "path"),
    ]
    params = [ParamSpec("output_dir", DataType.string, default="")]
    return ModelSignature(Schema(inputs), Schema(outputs), ParamSchema(params))


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
