"""The model that MLflow serves: prompts in, mp4 files out.

This file is copied into every registered version and runs there alone ("models from code"): it
imports nothing of this project, so that an application needs only what the version's requirements
name. Beside it lies the plain adapter file, which other loaders read. It is one file because two
versions in one process would otherwise share the modules of the one that was loaded first.

    model = mlflow.pyfunc.load_model("models:/style@champion")
    model.predict([{"prompt": "a red kite over the sea", "seed": 1}], params={"output_dir": "out"})

A row has a `prompt` and, for an image-to-video base, an `image`; it may have `seed`, `steps`,
`guidance`, `negative_prompt`, `scale`, `frames`, `height` and `width`. What a row leaves out comes
from the version's own configuration; its fields are those of `Settings`, and an application may
give others to `load_model(..., model_config={...})`, such as another place of the same base.
"""

import base64
import hashlib
import io
import json
import logging
import math
import numbers
import os
import re
import struct
import tempfile
import threading
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import mlflow
import pandas as pd  # type: ignore[import-untyped]
from mlflow.exceptions import MlflowException
from PIL import Image, ImageOps

logger = logging.getLogger(__name__)

# What names a base: these files below these folders. As in cogvx.model.identity.
_PARTS = ("scheduler", "text_encoder", "tokenizer", "transformer", "vae")
_CONTENT = (".json", ".safetensors", ".model", ".txt")
_HASH_THREADS = 4

_TRAIN_TIMESTEPS = 1000
_FULL_SCALE = 1.0
_FIRST_SEED = 0
_SEEDS = 1 << 53  # a row without a seed makes numbers of the others' that are exact up to here
_RANGES: Mapping[str, tuple[float, float, bool]] = {
    "seed": (0, _SEEDS, True),
    "steps": (1, _TRAIN_TIMESTEPS, True),
    "guidance": (1, 100, False),
    "scale": (-10, 10, False),
    "frames": (1, 1_000, True),
    "height": (1, 8_192, True),
    "width": (1, 8_192, True),
}
_ROW_TOLD = ("prompt", "negative_prompt", "seed", "steps", "guidance")
_SETTINGS_TOLD = ("dtype", "sampler", "dynamic_guidance", "fps", "tiling")
_IMAGE_FORMATS = ("PNG", "JPEG", "WEBP")
_IMAGE_PIXELS = 1 << 26
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, KeyError, IndexError)
_OUTPUTS = ("path", "base64")
_SERVED = "_MLFLOW_IS_IN_SERVING_ENVIRONMENT"  # set by `mlflow models serve`

_MAX_PIXEL = 255
_ENCODER = {"crf": "18", "preset": "medium", "x264-params": "cpu-independent=1"}
_BT601, _LIMITED_RANGE = 6, 1  # as ITU-T H.273 numbers them


@dataclass(frozen=True)
class Settings:
    """What a version was registered with, and what an application may change when it loads it.

    Attributes:
        base: A folder or a hub id. Wherever it comes from, it must have the `fingerprint`.
        revision: The hub's commit.
        fingerprint: Names the base that the adapter was trained on, by its bytes.
        adapter_sha256: Of the adapter file beside this one.
        name: The registered model.
        run: The training run.
        dtype: As torch names it.
        image_latent_scale: What a first frame's latent is scaled with: "multiplied" or "divided" by
            the VAE's factor, or "raw"; None for a base that has prompts alone.
        max_frames: Longest video that the base was trained for; None where nobody knows.
        offload: "none", "model" or "sequential": ever less of a GPU's memory, and slower.
        tiling: Decode in tiles: less memory, slightly other pixels.
    """

    base: str
    revision: str | None
    fingerprint: str
    adapter_sha256: str
    name: str
    run: str
    dtype: str
    image_latent_scale: Literal["multiplied", "divided", "raw"] | None
    sampler: str
    steps: int
    guidance: float
    dynamic_guidance: bool
    negative_prompt: str
    frames: int
    height: int
    width: int
    fps: int
    max_frames: int | None
    offload: str
    tiling: bool


@dataclass(frozen=True)
class Row:
    """One video to make; `image` is the first frame in the video's own size."""

    prompt: str
    negative_prompt: str
    seed: int
    steps: int
    guidance: float
    scale: float
    frames: int
    height: int
    width: int
    image: Image.Image | None


class CogVideoXAdapterModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A CogVideoX pipeline with one adapter at the strength that each row asks for."""

    settings: Settings
    pipeline: Any
    registered: str
    _turn: threading.Lock

    def load_context(self, context: Any) -> None:
        """Load the base in the precision the adapter was trained over, then the adapter.

        Raises:
            MlflowException: The base or the adapter is not the one that was registered, or the
                adapter does not reach every layer that it was made for.
        """
        self.settings = Settings(**context.model_config)
        adapter = next(Path(context.artifacts["adapter"]).glob("*.safetensors"))
        _require_same("the adapter", _sha256(adapter), self.settings.adapter_sha256, adapter)
        base = _find_base(self.settings)
        found = fingerprint(base)
        _require_same("the base model", found, self.settings.fingerprint, self.settings.base)
        self.pipeline = _load_pipeline(self.settings, base, adapter)
        self.registered = _registered(adapter.parents[2]) or self.settings.name
        self._turn = threading.Lock()

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None
    ) -> list[dict[str, object]]:
        """Generate one mp4 for every row; the same row gives the same bytes.

        Args:
            context: Not used: everything was loaded once.
            model_input: Rows as at the top of this file; MLflow makes a frame of a list of them.
            params: `output`: "path" for files, in `output_dir` or else a new temporary folder, or
                "base64" for the videos themselves, as text that JSON carries.

        Returns:
            For every row its `prompt`, its `seed`, and the `path` of the file or the `video`.

        Raises:
            MlflowException: With every problem of every row; no video was made then.
        """
        del context
        output, named = _chosen_output(params or {})
        rows = _read_rows(model_input.to_dict("records"), self.settings, self.pipeline)
        with _folder_for(output, named) as folder, self._turn:  # a server calls from many threads
            return [self._answer(row, output, folder) for row in rows]

    def _answer(self, row: Row, output: str, folder: Path) -> dict[str, object]:
        provenance = self._provenance(row)
        name = hashlib.sha256(_json(provenance).encode()).hexdigest()[:32]
        path = folder / f"{name}.mp4"
        _write_mp4(path, self._generate(row), fps=self.settings.fps, metadata=provenance)
        answer: dict[str, object] = {"prompt": row.prompt, "seed": row.seed}
        if output == "path":
            return {**answer, "path": str(path)}
        return {**answer, "video": base64.b64encode(path.read_bytes()).decode("ascii")}

    def _provenance(self, row: Row) -> dict[str, str]:
        """Everything that decides the video, each as JSON, for its metadata and its name.

        Where the base lies does not: the same base elsewhere gives the same file.
        """
        own, image = self.settings, row.image
        told = {
            "model": self.registered,
            "run": own.run,
            "base": {"fingerprint": own.fingerprint, "revision": own.revision},
            "adapters": [{"name": own.name, "sha256": own.adapter_sha256, "weight": row.scale}],
            "size": f"{row.frames}x{row.height}x{row.width}",
            "image": None if image is None else hashlib.sha256(image.tobytes()).hexdigest(),
            "image_scale": own.image_latent_scale,
        }
        told |= {name: getattr(row, name) for name in _ROW_TOLD}
        told |= {name: getattr(own, name) for name in _SETTINGS_TOLD}
        return {f"cogvx_{name}": _json(value) for name, value in told.items() if value is not None}

    def _generate(self, row: Row) -> Any:
        """Frames as uint8 `(f, h, w, 3)`."""
        import numpy as np  # noqa: PLC0415 - registering a version must not load these
        import torch  # noqa: PLC0415

        _set_strength(self.pipeline.transformer, row.scale)
        image = {} if row.image is None else {"image": row.image}
        video_fhwc = self.pipeline(
            **image,
            prompt=row.prompt,
            negative_prompt=row.negative_prompt,
            num_frames=row.frames,
            height=row.height,
            width=row.width,
            num_inference_steps=row.steps,
            guidance_scale=row.guidance,
            use_dynamic_cfg=self.settings.dynamic_guidance,
            max_sequence_length=self.pipeline.transformer.config.max_text_seq_length,
            # On the CPU, so that a seed means the same video on every device.
            generator=torch.Generator("cpu").manual_seed(row.seed),
            output_type="np",
        ).frames[0]
        if not np.isfinite(video_fhwc).all():
            raise MlflowException(
                f"{self.settings.base} in {self.settings.dtype} gave pixels that are not finite for"
                f" seed {row.seed}"
            )
        return np.rint(video_fhwc * _MAX_PIXEL).astype(np.uint8)


def fingerprint(folder: Path) -> str:
    """Name a base by its bytes, as it was named when the adapter was trained.

    Reads all weights, some 20 GB of a published base, with several threads.
    """
    paths = []
    for part in _PARTS:
        found = [
            path
            for path in (folder / part).rglob("*")
            if path.is_file() and path.suffix in _CONTENT and not path.name.startswith(".")
        ]
        if not found:
            raise _refused(f"{folder} is not a complete CogVideoX model: {part}/ is missing")
        paths += sorted(found, key=lambda path: path.relative_to(folder / part).as_posix())
    hasher = hashlib.sha256()
    with ThreadPoolExecutor(_HASH_THREADS) as pool:
        for path, sha256 in zip(paths, pool.map(_sha256, paths), strict=True):
            hasher.update(f"{path.relative_to(folder).as_posix()} {sha256}\n".encode())
    return hasher.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_same(what: str, found: str, expected: str, where: object) -> None:
    if found != expected:
        raise _refused(
            f"{what} at {where} is {found}, but this version was registered with {expected}; use"
            " the one that its adapter was trained on"
        )


def _find_base(settings: Settings) -> Path:
    """The base's folder, downloaded from the hub if it is not here."""
    folder = Path(settings.base).expanduser()
    if folder.is_dir():
        return folder
    advice = 'give its place here: load_model(..., model_config={"base": folder or hub id})'
    if settings.base.count("/") != 1 or settings.base.startswith(("/", ".", "~")):
        raise _refused(f"base = {settings.base} is no folder on this machine; {advice}")
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - only where it is asked

    wanted = [f"{part}/*{end}" for part in _PARTS for end in _CONTENT]
    try:
        return Path(
            snapshot_download(settings.base, revision=settings.revision, allow_patterns=wanted)
        )
    except (OSError, ValueError) as error:  # all that the hub's client raises are of these two
        what = f"{settings.base} at {settings.revision or 'its newest revision'}"
        reason = " ".join(str(error).split())  # the hub's client writes several lines
        reason = re.sub(r"://\S*@", "://***@", reason)  # a mirror's address may hold a password
        raise _refused(f"the hub did not give {what}: {reason}; {advice}") from None


def _load_pipeline(settings: Settings, base: Path, adapter: Path) -> Any:
    """Load exactly the parts that the fingerprint is of, and the adapter into them."""
    import diffusers  # noqa: PLC0415 - registering a version must not load it
    import torch  # noqa: PLC0415
    from transformers import T5EncoderModel, T5TokenizerFast  # noqa: PLC0415

    dtype = getattr(torch, settings.dtype)
    here = {"local_files_only": True}
    given = {**here, "use_safetensors": True}
    sampler = {
        "dpm": diffusers.CogVideoXDPMScheduler,
        "ddim": diffusers.CogVideoXDDIMScheduler,
    }[settings.sampler]
    from_image = settings.image_latent_scale is not None
    kind = _image_pipeline() if from_image else diffusers.CogVideoXPipeline
    pipeline = kind(
        transformer=diffusers.CogVideoXTransformer3DModel.from_pretrained(
            base, subfolder="transformer", torch_dtype=dtype, **given
        ),
        vae=diffusers.AutoencoderKLCogVideoX.from_pretrained(
            base, subfolder="vae", torch_dtype=dtype, **given
        ),
        text_encoder=T5EncoderModel.from_pretrained(
            base, subfolder="text_encoder", dtype=dtype, **given
        ),
        tokenizer=T5TokenizerFast.from_pretrained(base, subfolder="tokenizer", **here),
        scheduler=sampler.from_pretrained(
            base, subfolder="scheduler", timestep_spacing="trailing", **here
        ),
    )
    if from_image:
        pipeline.image_latent_scale = settings.image_latent_scale
    pipeline.load_lora_weights(str(adapter.parent), weight_name=adapter.name, **here)
    _require_all_layers(pipeline.transformer, adapter)
    if settings.tiling:
        pipeline.vae.enable_tiling()
    pipeline.set_progress_bar_config(disable=True)
    return _placed(pipeline, settings.offload, has_gpu=torch.cuda.is_available())


def _image_pipeline() -> Any:
    """The image-to-video pipeline, with the scale of the first frame's latent as a choice.

    Programs scale it in three ways, and an adapter suits only the one that it was trained with.
    """
    from diffusers import CogVideoXImageToVideoPipeline  # noqa: PLC0415 - as everywhere here

    class Pipeline(CogVideoXImageToVideoPipeline):  # type: ignore[misc]
        image_latent_scale: str
        vae_scaling_factor_image: float

        def prepare_latents(self, *args: Any, **kwargs: Any) -> Any:
            own = self.vae_scaling_factor_image
            factor = {"multiplied": own, "divided": 1 / own, "raw": 1.0}[self.image_latent_scale]
            # It multiplies with this number, or divides by it; decoding needs the VAE's own again.
            inverts = self.vae.config.invert_scale_latents
            self.vae_scaling_factor_image = 1 / factor if inverts else factor
            try:
                return super().prepare_latents(*args, **kwargs)
            finally:
                self.vae_scaling_factor_image = own

    return Pipeline


def _require_all_layers(transformer: Any, adapter: Path) -> None:
    """Refuse a file that fits nothing, or in part, of which diffusers only warns."""
    from peft.tuners.tuners_utils import BaseTunerLayer  # noqa: PLC0415 - loads torch
    from safetensors import safe_open  # noqa: PLC0415

    with safe_open(adapter, framework="pt") as tensors:
        held = sum(".lora_A." in name for name in tensors.keys())  # noqa: SIM118 - no mapping
    reached = sum(isinstance(part, BaseTunerLayer) for part in transformer.modules())
    if held != reached or not held:
        raise _refused(f"{adapter} adapts {held} layers, of which the base model has {reached}")


def _placed(pipeline: Any, offload: str, *, has_gpu: bool) -> Any:
    ways = {
        "none": lambda: pipeline.to("cuda"),
        "model": pipeline.enable_model_cpu_offload,
        "sequential": pipeline.enable_sequential_cpu_offload,
    }
    if offload not in ways:
        raise _refused(f'offload = "{offload}" is unknown; use one of {", ".join(ways)}')
    if has_gpu:
        ways[offload]()
    return pipeline


def _set_strength(transformer: Any, scale: float) -> None:
    """Let the adapter act at `scale`, whatever the video before was made with.

    Setting is absolute as long as nothing was fused or swapped. Without adapters the base computes
    as if it had never had any, bit for bit.
    """
    if scale == 0:
        transformer.disable_lora()
    else:
        transformer.enable_lora()
        transformer.set_adapters(list(transformer.peft_config), scale)


def _registered(package: Path) -> str:
    """Name and number, as style/3, where MLflow noted them: beside what it fetched by models:/."""
    note = package / "registered_model_meta"
    lines = note.read_text().splitlines() if note.is_file() else []
    told = dict(line.split(": ", 1) for line in lines if ": " in line)
    name, number = (told.get(key, "").strip("'\"") for key in ("model_name", "model_version"))
    return f"{name}/{number}" if name and number else ""


def _chosen_output(params: Mapping[str, Any]) -> tuple[str, str]:
    """How to answer, and the folder that was named."""
    output, named = str(params.get("output") or "path"), str(params.get("output_dir") or "")
    if output not in _OUTPUTS:
        raise _refused(f'output = "{output}" is unknown; use one of {", ".join(_OUTPUTS)}')
    if named and _is_served():
        raise _refused(f'output_dir = "{named}" is on the server; use output = "base64"')
    return output, named


@contextmanager
def _folder_for(output: str, named: str) -> Iterator[Path]:
    """A folder for the files: the named one, a new one that stays, or one that goes again."""
    if output == "path":
        folder = Path(named or tempfile.mkdtemp(prefix="cogvx-")).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="cogvx-") as passing:
        yield Path(passing)


def _is_served() -> bool:
    """Whether requests come from other machines, which have no business with files of this one."""
    return os.environ.get(_SERVED) == "true"  # noqa: TID251 - this file stands alone


def _read_rows(cells: list[dict[str, Any]], settings: Settings, pipeline: Any) -> list[Row]:
    problems: list[str] = []
    rows = []
    for number, row in enumerate(cells):
        given = {name: value for name, value in row.items() if _is_given(value)}
        found: list[str] = []
        rows.append(_row(given, settings, found))
        found += _size_problems(rows[-1], settings, pipeline) if not found else []
        problems += [f"rows[{number}].{problem}" for problem in found]
    if not rows:
        problems.append('there are no rows; give at least one with a "prompt"')
    if problems:
        raise _refused("; ".join(problems))
    return rows


def _is_given(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isnan(value)  # stands for an empty cell
    return value is not None


def _row(given: Mapping[str, Any], settings: Settings, problems: list[str]) -> Row:
    """A row; where `problems` grew, its fields are of no use."""
    texts = {"prompt": "", "negative_prompt": settings.negative_prompt}
    texts |= {name: given[name] for name in texts if name in given}
    problems += [f"{name} is no text" for name in texts if not isinstance(texts[name], str)]
    if not problems and not texts["prompt"].strip():
        problems.append("prompt is empty; say what is to be seen")
    own = {"seed": _FIRST_SEED, "scale": _FULL_SCALE}
    values: dict[str, Any] = {
        name: _number(name, given.get(name, own.get(name, getattr(settings, name, None))), problems)
        for name in _RANGES
    }
    if not problems and _TRAIN_TIMESTEPS % values["steps"]:
        better = min(_divisors(), key=lambda steps: abs(steps - values["steps"]))
        problems.append(f"steps = {values['steps']} does not divide 1000; use {better}")
    size = (values["width"], values["height"])
    image = None if problems else _first_frame(given.get("image"), settings, size, problems)
    return Row(
        prompt=texts["prompt"], negative_prompt=texts["negative_prompt"], image=image, **values
    )


def _number(name: str, value: Any, problems: list[str]) -> float | int:
    low, high, whole = _RANGES[name]
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if is_number and low <= value <= high and not (whole and value != int(value)):
        return int(value) if whole else float(value)
    kind = "a whole number" if whole else "a number"
    problems.append(f"{name} = {str(value)[:80]!r} is not {kind} from {low} to {high}")
    return 0


def _divisors() -> list[int]:
    return [steps for steps in range(1, _TRAIN_TIMESTEPS + 1) if not _TRAIN_TIMESTEPS % steps]


def _size_problems(row: Row, settings: Settings, pipeline: Any) -> list[str]:
    """Sizes that the model would silently bring to another one, or that it cannot tell apart."""
    config, problems = pipeline.transformer.config, []
    spatial = pipeline.vae_scale_factor_spatial
    step = 2 * pipeline.vae_scale_factor_temporal * (config.patch_size_t or 1)
    side = spatial * config.patch_size
    native = (config.sample_frames, config.sample_height * spatial, config.sample_width * spatial)
    if config.use_learned_positional_embeddings and native != (row.frames, row.height, row.width):
        only = "x".join(str(extent) for extent in native)
        problems.append(f"frames, height and width are not {only}, the only size of this model")
    if (row.frames - 1) % step:
        problems.append(f"frames = {row.frames} is not a multiple of {step}, plus 1")
    if settings.max_frames is not None and row.frames > settings.max_frames:
        problems.append(f"frames = {row.frames} is too many; use at most {settings.max_frames}")
    for name, value, most in (("height", row.height, native[1]), ("width", row.width, native[2])):
        if value % side:
            problems.append(f"{name} = {value} is not a multiple of {side}")
        if config.patch_size_t and value > most:
            problems.append(f"{name} = {value} is too large; use at most {most}")
    return problems


def _first_frame(
    value: Any, settings: Settings, size: tuple[int, int], problems: list[str]
) -> Image.Image | None:
    if settings.image_latent_scale is None:
        if value is not None:
            problems.append(f"image is given, but {settings.base} starts from the prompt alone")
        return None
    if value is None:
        problems.append(f"image is missing: {settings.base} starts from one")
        return None
    try:
        with Image.open(io.BytesIO(_image_bytes(value)), formats=_IMAGE_FORMATS) as opened:
            if opened.width * opened.height > _IMAGE_PIXELS:
                raise ValueError(f"it has more than {_IMAGE_PIXELS} pixels")
            if opened.mode.startswith(("I", "F")):
                raise ValueError("it has more than 8 bits a colour")
            return _fitted(_opaque(ImageOps.exif_transpose(opened)), size)
    except (*_DAMAGE, Image.DecompressionBombError) as error:
        formats = ", ".join(_IMAGE_FORMATS)
        problems.append(f"image cannot be read as one of {formats}: {error}")
        return None


def _opaque(image: Image.Image) -> Image.Image:
    """Laid on white where one can see through it."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    over = image.convert("RGBA")
    under = Image.new("RGBA", over.size, (_MAX_PIXEL,) * 4)
    return Image.alpha_composite(under, over).convert("RGB")


def _fitted(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The image in the video's size: resized to cover it, and cut around its centre.

    With the resampling and the rounding that clips have in training.
    """
    import numpy as np  # noqa: PLC0415 - registering a version must not load these
    import torch  # noqa: PLC0415

    width, height = size
    scale = max(height / image.height, width / image.width)
    tall, wide = max(height, round(image.height * scale)), max(width, round(image.width * scale))
    if tall * wide > _IMAGE_PIXELS:
        raise ValueError("it is too long and narrow")
    rgb_chw = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
    if (tall, wide) != (image.height, image.width):
        rgb_chw = torch.nn.functional.interpolate(
            rgb_chw[None], size=(tall, wide), mode="bilinear", align_corners=False, antialias=True
        )[0]
    top, left = (tall - height) // 2, (wide - width) // 2
    cut_chw = rgb_chw[:, top : top + height, left : left + width].round().clamp(0, _MAX_PIXEL)
    return Image.fromarray(cut_chw.permute(1, 2, 0).to(torch.uint8).numpy())


def _image_bytes(value: Any) -> bytes:
    """From bytes, from base64 with or without data:image/...; before it, or from a file's path.

    Raises:
        ValueError: It is nothing of this.
    """
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ValueError(f"it is a {type(value).__name__}")  # noqa: TRY004 - becomes a sentence
    if value.startswith("data:"):
        return base64.b64decode(value.partition(",")[2], validate=True)
    if not _is_served() and len(value) < 4096 and Path(value).expanduser().is_file():
        return Path(value).expanduser().read_bytes()
    return base64.b64decode(value, validate=True)


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _refused(sentence: str) -> MlflowException:
    return MlflowException.invalid_parameter_value(sentence)


def _write_mp4(path: Path, rgb_fhwc: Any, *, fps: int, metadata: Mapping[str, str]) -> None:
    """H.264 under a temporary name, then renamed: a reader never sees half a video.

    One thread and stated colours, so that the same pixels are the same bytes everywhere.
    """
    import av  # noqa: PLC0415 - registering a version must not load it
    from av.video.reformatter import Colorspace  # noqa: PLC0415

    aside = path.with_name(f".aside-{uuid.uuid4().hex}-{path.name}")
    options = {"movflags": "use_metadata_tags+faststart", "fflags": "+bitexact"}
    with av.open(str(aside), "w", format="mp4", options=options) as container:
        container.metadata.update(metadata)
        stream = container.add_stream("libx264", rate=fps, options=_ENCODER)
        stream.height, stream.width = rgb_fhwc.shape[1:3]
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.thread_count = 1
        context.colorspace = context.color_primaries = context.color_trc = _BT601
        context.color_range = _LIMITED_RANGE
        for number, image_hwc in enumerate(rgb_fhwc):
            frame = av.VideoFrame.from_ndarray(image_hwc, format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU601)
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    aside.replace(path)


mlflow.models.set_model(CogVideoXAdapterModel())
