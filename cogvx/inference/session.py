"""Generate videos from one loaded base model and any number of adapters, switched by weight.

Every kind of base is generated with as diffusers does it, but for a choice that diffusers does not
offer: what the first frame's latent is scaled with.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

import numpy as np
import torch
from diffusers import CogVideoXTransformer3DModel
from PIL import Image

from cogvx.errors import ConfigError, IntegrityError
from cogvx.inference.embedding import Embedder
from cogvx.inference.memory import AMPLE, Memory
from cogvx.inference.mix import AdapterMix, Attached
from cogvx.inference.pipelines import Pipeline, load_pipeline
from cogvx.inference.placement import Placement, require_offload
from cogvx.inference.prompts import Prompts
from cogvx.inference.request import Request, request_problems
from cogvx.model.identity import BASE_PARTS
from cogvx.model.identity import fingerprint as fingerprint_of
from cogvx.model.image_scale import image_scale_of
from cogvx.model.load import load_scheduler
from cogvx.model.quantise import store_base
from cogvx.variants import BaseFacts, DType, ImageScale, dtype_problems, read_facts


class Session:
    """A base model in memory, its adapters, and the weights that they act with.

    Attributes:
        facts: The base, as its configuration describes it.
        fingerprint: The base, as its bytes name it.
        image_scale: What the first frame's latent is scaled with; None for text-to-video.
        memory: What was given up so that it fits.
        dtype: What the transformer computes in.
    """

    facts: BaseFacts
    fingerprint: str
    image_scale: ImageScale | None
    memory: Memory
    dtype: torch.dtype
    _is_stored: bool

    def __init__(
        self,
        base_folder: Path,
        pipeline: Pipeline,
        *,
        embedder: Embedder,
        device: str,
        memory: Memory,
        fingerprint: str,
        image_scale: ImageScale | None,
    ) -> None:
        """Take loaded parts; `open` loads them."""
        self.facts = read_facts(base_folder)
        self.fingerprint = fingerprint
        self.image_scale = image_scale
        self.memory = memory
        self.dtype = pipeline.vae.dtype
        self._device = torch.device(device)
        self._base_folder = base_folder
        self._pipeline = pipeline
        self._embedder = embedder
        self._placement = Placement(pipeline, device=device, memory=memory)
        self._mix = AdapterMix(
            pipeline,
            facts=self.facts,
            fingerprint=fingerprint,
            image_scale=image_scale,
            folder=base_folder,
        )
        self._is_stored = False

    @classmethod
    def open(
        cls,
        base_folder: Path,
        *,
        dtype: DType,
        device: str = "cpu",
        memory: Memory = AMPLE,
        fingerprint: str | None = None,
        image_scale: ImageScale | None = None,
        prompts: Prompts | None = None,
    ) -> Self:
        """Load a base model once, for any number of videos.

        Args:
            base_folder: The diffusers folder of a CogVideoX.
            dtype: Precision of every part.
            device: Where videos are made.
            memory: What to give up so that it fits.
            fingerprint: The base's, where the caller knows it; otherwise every file is read for it.
            image_scale: As the adapters were trained; 1.5 needs it said, others have only one.
            prompts: Knows embeddings already, such as `CachedPrompts`; the text encoder is loaded
                when one is missing.

        Raises:
            ConfigError: The folder holds no such model, or a choice does not suit it.
        """
        facts = read_facts(base_folder)
        if problems := dtype_problems(facts.variant, dtype, where="dtype"):
            raise ConfigError(f"{base_folder} cannot be opened", problems)
        require_offload(memory.offload, device)
        scale = image_scale_of(facts.variant, image_scale, where="image_scale")
        # what is rounded to 8 bits is rounded in main memory, after adapters were fused there
        whole = memory.offload == "none" and memory.base_weights == "as_is"
        pipeline = load_pipeline(
            base_folder,
            facts,
            dtype=dtype,
            device=device if whole else "cpu",
            image_scale=scale,
        )
        if memory.vae_slicing:
            pipeline.vae.enable_slicing()
        if memory.vae_tiling:
            pipeline.vae.enable_tiling()
        return cls(
            base_folder,
            pipeline,
            embedder=Embedder(
                base_folder,
                facts,
                dtype=dtype,
                device=device,
                offload=memory.offload,
                prompts=prompts,
            ),
            device=device,
            memory=memory,
            fingerprint=fingerprint or fingerprint_of(base_folder, BASE_PARTS),
            image_scale=scale,
        )

    @property
    def device(self) -> torch.device:
        """Where the inputs of `transformer` belong."""
        return self._device if self._is_whole else torch.device("cpu")

    @property
    def transformer(self) -> CogVideoXTransformer3DModel:
        """The adapted transformer, ready to run.

        A base to be stored in 8 bits is not yet, before the first video: it runs in main memory.
        """
        if self._is_whole:
            self._placement.arrange()
        return self._pipeline.transformer

    def attach(self, name: str, adapter_file: Path) -> Attached:
        """Load an adapter file; it changes no video before `use` gives it a weight.

        Raises:
            ConfigError: There is no such file, or the name is taken.
            IntegrityError: The file is no adapter of this model; the session is as before.
        """
        return self._changeable_mix().attach(name, adapter_file)

    def use(self, weights: Mapping[str, float]) -> None:
        """Set the weight of every adapter; what is not named has none, so `{}` is the base.

        Weights are absolute: 0.5 twice is 0.5. At 1.0 an adapter acts as it was trained.

        Raises:
            ConfigError: An adapter is not attached, or a weight is not finite; nothing changes.
        """
        self._changeable_mix().use(weights)

    def detach(self, name: str) -> None:
        """Remove an adapter from memory; the others keep their weights.

        Raises:
            ConfigError: It is not attached.
        """
        self._changeable_mix().detach(name)

    def swap(self, name: str, adapter_file: Path) -> Attached:
        """Put another file in an adapter's place, under its name and at its weight.

        Raises:
            ConfigError: It is not attached, or there is no such file.
            IntegrityError: The file is no adapter of this model; the session is as before.
        """
        return self._changeable_mix().swap(name, adapter_file)

    def fuse(self, scale: float = 1.0) -> None:
        """Add the adapters in use to the base's own weights, so that they cost no time.

        The videos stay, but for rounding; whatever changes the adapters later is fused anew.

        Raises:
            ConfigError: The scale is not finite.
        """
        self._changeable_mix().fuse(scale)

    def unfuse(self) -> None:
        """Take the adapters out of the base's weights again, which are its own bits then."""
        self._changeable_mix().unfuse()

    @property
    def fused_at(self) -> float | None:
        """The scale that the adapters are fused at; None while they are not."""
        return self._mix.fused_at

    @property
    def attached(self) -> Mapping[str, Attached]:
        """Every adapter in this session by its name, whether or not it is used."""
        return self._mix.attached

    @property
    def weights(self) -> Mapping[str, float]:
        """What every adapter in use acts with."""
        return self._mix.weights

    def generate(
        self, request: Request, *, on_step: Callable[[int, int], None] | None = None
    ) -> np.ndarray:
        """Generate one video; the same request and weights give the same pixels.

        Args:
            request: What to generate.
            on_step: Called with steps done and steps in all.

        Returns:
            uint8 `(f, h, w, 3)` of exactly the request's size.

        Raises:
            ConfigError: The request cannot be sampled with this model; with all problems.
            IntegrityError: The model gave pixels that are not finite.
        """
        problems = request_problems(request, self.facts)
        if problems:
            raise ConfigError("this video cannot be generated", problems)
        embedded = self._embed(request)
        self._settle()
        sampling, size = request.sampling, request.size
        self._pipeline.scheduler = load_scheduler(self._base_folder, sampling.sampler)

        def count(_pipeline: Pipeline, step: int, *_: object) -> dict[str, object]:
            if on_step is not None:
                on_step(step + 1, sampling.steps)
            return {}

        video_bfhwc = self._pipeline(
            **embedded,
            **_image(request),
            height=size.height,
            width=size.width,
            num_frames=size.frames,
            num_inference_steps=sampling.steps,
            guidance_scale=sampling.guidance,
            use_dynamic_cfg=sampling.dynamic_guidance,
            max_sequence_length=self.facts.text_tokens,
            # on the CPU, so that a seed means the same noise on every device
            generator=torch.Generator("cpu").manual_seed(request.seed),
            output_type="np",
            callback_on_step_end=count,
            callback_on_step_end_tensor_inputs=[],
        ).frames
        if not np.isfinite(video_bfhwc).all():
            raise IntegrityError(
                f"{self.facts.variant.name} in {self.dtype} gave pixels that are not"
                f" finite for seed {request.seed}"
            )
        rgb_fhwc: np.ndarray = np.rint(video_bfhwc[0] * 255).astype(np.uint8)
        return rgb_fhwc

    @property
    def _is_whole(self) -> bool:
        """Whether the transformer is stored in the form that it runs in."""
        return self._is_stored or self.memory.base_weights == "as_is"

    def _changeable_mix(self) -> AdapterMix:
        """The mix, while every weight is whole and where it can be written."""
        self._placement.rest()
        return self._mix

    def _settle(self) -> None:
        """Bring everything into the form and the place that videos are made in."""
        if not self._is_whole:
            self._mix.seal()
            store_base(self._pipeline.transformer, self.memory.base_weights)
            self._is_stored = True
        self._placement.arrange()

    def _embed(self, request: Request) -> dict[str, object]:
        """What the pipeline takes in the place of prompts; guidance needs the negative one, too."""
        embedded: dict[str, object] = {"prompt_embeds": self._embedder.embed(request.prompt)}
        if request.sampling.guidance > 1:
            negative_bsd = self._embedder.embed(request.negative_prompt)
            embedded["negative_prompt_embeds"] = negative_bsd
        return embedded


def _image(request: Request) -> dict[str, object]:
    return {} if request.image_hwc is None else {"image": Image.fromarray(request.image_hwc)}
