"""The model that MLflow serves: prompts in, mp4 files out.

This file is copied into every registered version and runs there alone ("models from code"): it
imports nothing of this project, so that an application needs only what the version's requirements
name. Beside it lies the plain adapter file, which other loaders read.

    model = mlflow.pyfunc.load_model("models:/style@champion")
    model.predict([{"prompt": "a red kite over the sea", "seed": 1}], params={"output_dir": "out"})

A row has a `prompt`, and may have `seed`, `steps`, `guidance`, `frames`, `height` and `width`. What
a row leaves out comes from the version's own configuration; its fields are those of `Settings`.
"""

import hashlib
import json
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd  # type: ignore[import-untyped]
from mlflow.exceptions import MlflowException

_FIRST_SEED = 0
_MAX_PIXEL = 255
_ENCODER = {"crf": "18", "preset": "medium", "x264-params": "cpu-independent=1"}
_BT601, _LIMITED_RANGE = 6, 1  # as ITU-T H.273 numbers them


@dataclass(frozen=True)
class Settings:
    """What a version was registered with; `base` is a folder or a hub id."""

    base: str
    revision: str | None
    dtype: str
    sampler: str
    steps: int
    guidance: float
    dynamic_guidance: bool
    negative_prompt: str
    frames: int
    height: int
    width: int
    fps: int


@dataclass(frozen=True)
class Row:
    """One video to make, with everything that decides it."""

    prompt: str
    seed: int
    steps: int
    guidance: float
    frames: int
    height: int
    width: int

    @property
    def file_name(self) -> str:
        """A name that differs whenever the video does."""
        text = json.dumps([getattr(self, field.name) for field in fields(self)])
        return f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.mp4"


class CogVideoXAdapterModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A CogVideoX pipeline with one adapter at the strength it was trained with."""

    settings: Settings
    pipeline: Any

    def load_context(self, context: Any) -> None:
        """Load the base in the precision the adapter was trained over, then the adapter.

        Raises:
            MlflowException: The adapter reached no layer, or the base wants an image to start from.
        """
        self.settings = Settings(**context.model_config)
        self.pipeline = _load_pipeline(self.settings, Path(context.artifacts["adapter"]))

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None
    ) -> list[dict[str, object]]:
        """Generate one mp4 for every row.

        Args:
            context: Not used: everything was loaded once.
            model_input: Rows as at the top of this file; MLflow makes a frame of a list of them.
            params: `output_dir`; without it the files go to a new temporary folder.

        Returns:
            For every row its `prompt`, its `seed` and the `path` of the file.

        Raises:
            MlflowException: A row has no prompt, or a size that the model cannot make; no video was
                made then.
        """
        del context
        named = str((params or {}).get("output_dir") or "")
        folder = Path(named or tempfile.mkdtemp(prefix="cogvx-")).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        rows = [_row(given, self.settings) for given in model_input.to_dict("records")]
        for row in rows:
            _require_size(row, self.pipeline)
        return [
            {"prompt": row.prompt, "seed": row.seed, "path": str(self._generate(row, folder))}
            for row in rows
        ]

    def _generate(self, row: Row, folder: Path) -> Path:
        import torch  # noqa: PLC0415 - registering a version must not load it

        video = self.pipeline(
            prompt=row.prompt,
            negative_prompt=self.settings.negative_prompt,
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
        path = folder / row.file_name
        _write_mp4(path, (video * _MAX_PIXEL).round().astype("uint8"), fps=self.settings.fps)
        return path


def _load_pipeline(settings: Settings, adapter: Path) -> Any:
    import diffusers  # noqa: PLC0415 - registering a version must not load it
    import torch  # noqa: PLC0415
    from peft.tuners.tuners_utils import BaseTunerLayer  # noqa: PLC0415

    pipeline = diffusers.CogVideoXPipeline.from_pretrained(
        settings.base,
        revision=settings.revision,
        torch_dtype=getattr(torch, settings.dtype),
        use_safetensors=True,
    )
    if pipeline.transformer.config.in_channels != pipeline.vae.config.latent_channels:
        raise MlflowException(f"{settings.base} starts from an image; this model has only prompts")
    scheduler = {
        "dpm": diffusers.CogVideoXDPMScheduler,
        "ddim": diffusers.CogVideoXDDIMScheduler,
    }[settings.sampler]
    pipeline.scheduler = scheduler.from_config(
        pipeline.scheduler.config, timestep_spacing="trailing"
    )
    pipeline.load_lora_weights(str(adapter))
    # diffusers only warns about a file that fits nothing.
    if not any(isinstance(part, BaseTunerLayer) for part in pipeline.transformer.modules()):
        raise MlflowException(f"the adapter in {adapter} reaches no layer of {settings.base}")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to("cuda" if torch.cuda.is_available() else "cpu")


def _is_given(value: Any) -> bool:
    return value is not None and value == value  # noqa: PLR0124 - NaN stands for an empty cell


def _row(cells: Mapping[str, Any], settings: Settings) -> Row:
    given = {name: value for name, value in cells.items() if _is_given(value)}
    if not str(given.get("prompt", "")).strip():
        raise MlflowException.invalid_parameter_value(
            'every row needs a "prompt" that is not empty'
        )
    try:
        return Row(
            prompt=str(given["prompt"]),
            seed=int(given.get("seed", _FIRST_SEED)),
            steps=int(given.get("steps", settings.steps)),
            guidance=float(given.get("guidance", settings.guidance)),
            frames=int(given.get("frames", settings.frames)),
            height=int(given.get("height", settings.height)),
            width=int(given.get("width", settings.width)),
        )
    except (TypeError, ValueError) as error:
        raise MlflowException.invalid_parameter_value(
            f"a row is not in numbers: {error}"
        ) from error


def _require_size(row: Row, pipeline: Any) -> None:
    """Refuse a size that the model would silently bring to another one."""
    frames = 2 * pipeline.vae_scale_factor_temporal
    pixels = pipeline.vae_scale_factor_spatial * pipeline.transformer.config.patch_size
    if row.frames < 1 or (row.frames - 1) % frames:
        raise MlflowException.invalid_parameter_value(
            f"frames = {row.frames} is not a multiple of {frames}, plus 1"
        )
    if row.height < pixels or row.width < pixels or row.height % pixels or row.width % pixels:
        raise MlflowException.invalid_parameter_value(
            f"height x width = {row.height}x{row.width} is not in multiples of {pixels}"
        )


def _write_mp4(path: Path, rgb_fhwc: Any, *, fps: int) -> None:
    """H.264 under a temporary name, then renamed: a reader never sees half a video.

    One thread and stated colours, so that the same pixels are the same bytes everywhere.
    """
    import av  # noqa: PLC0415 - registering a version must not load it
    from av.video.reformatter import Colorspace  # noqa: PLC0415

    aside = path.with_name(f".aside-{uuid.uuid4().hex}-{path.name}")
    options = {"movflags": "faststart", "fflags": "+bitexact"}
    with av.open(str(aside), "w", format="mp4", options=options) as container:
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
