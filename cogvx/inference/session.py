"""Generate videos from one loaded base model and any number of adapters, switched by weight.

Adapters are never merged into the base, so taking them away gives the base back bit for bit.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from diffusers import CogVideoXPipeline, CogVideoXTransformer3DModel
from torch import Tensor

from cogvx.errors import ConfigError, IntegrityError, Problem
from cogvx.inference.memory import AMPLE, Memory
from cogvx.inference.mix import AdapterMix, Attached
from cogvx.inference.request import Request
from cogvx.model.encode import encode_prompts
from cogvx.model.load import (
    TextEncoder,
    load_scheduler,
    load_text,
    load_transformer,
    load_vae,
)
from cogvx.variants import TRAIN_TIMESTEPS, BaseFacts, DType, read_facts


class Session:
    """A base model in memory, its adapters, and the weights that they act with."""

    facts: BaseFacts
    transformer: CogVideoXTransformer3DModel

    def __init__(
        self, base_folder: Path, facts: BaseFacts, *, text: TextEncoder, pipeline: CogVideoXPipeline
    ) -> None:
        """Take loaded parts; `open` loads them."""
        self.facts = facts
        self.transformer = pipeline.transformer
        self._base_folder = base_folder
        self._text = text
        self._pipeline = pipeline
        self._mix = AdapterMix(pipeline)
        self._embeddings: dict[str, Tensor] = {}

    @classmethod
    def open(
        cls, base_folder: Path, *, dtype: DType, device: str = "cpu", memory: Memory = AMPLE
    ) -> "Session":
        """Load a base model once, for any number of videos.

        Args:
            base_folder: The diffusers folder of a text-to-video CogVideoX.
            dtype: Precision of every part.
            device: Where every part lies.
            memory: What to give up so that it fits.

        Raises:
            ConfigError: The folder holds no such model.
        """
        facts = read_facts(base_folder)
        if facts.variant.image_to_video:
            raise ConfigError(
                f"{base_folder} is {facts.variant.name}, which starts from an image; use a"
                " text-to-video model"
            )
        text = load_text(base_folder, dtype=dtype, device=device)
        pipeline = CogVideoXPipeline(
            tokenizer=text.tokenizer,
            text_encoder=text.encoder,
            vae=load_vae(base_folder, dtype=dtype, device=device, tiling=memory.vae_tiling),
            transformer=load_transformer(base_folder, dtype=dtype, device=device),
            scheduler=load_scheduler(base_folder, facts.variant.sampler),
        )
        pipeline.set_progress_bar_config(disable=True)
        return cls(base_folder, facts, text=text, pipeline=pipeline)

    def attach(self, name: str, adapter_file: Path) -> Attached:
        """Load an adapter file; it changes no video before `use` gives it a weight.

        Raises:
            ConfigError: There is no such file, or the name is taken.
            IntegrityError: The file is no adapter of this model; the session is as before.
        """
        return self._mix.attach(name, adapter_file)

    def use(self, weights: Mapping[str, float]) -> None:
        """Set the weight of every adapter; what is not named has none, so `{}` is the base.

        Weights are absolute: 0.5 twice is 0.5. At 1.0 an adapter acts as it was trained.

        Raises:
            ConfigError: An adapter is not attached, or a weight is not finite; nothing changes.
        """
        self._mix.use(weights)

    def detach(self, name: str) -> None:
        """Remove an adapter from memory; the others keep their weights.

        Raises:
            ConfigError: It is not attached.
        """
        self._mix.detach(name)

    def generate(self, request: Request) -> np.ndarray:
        """Generate one video; the same request and weights give the same pixels.

        Returns:
            uint8 `(f, h, w, 3)` of exactly the request's size.

        Raises:
            ConfigError: The request cannot be sampled with this model.
            IntegrityError: The model gave pixels that are not finite.
        """
        self._require_possible(request)
        sampling, size = request.sampling, request.size
        guided = sampling.guidance > 1
        self._pipeline.scheduler = load_scheduler(self._base_folder, sampling.sampler)
        video_bfhwc = self._pipeline(
            prompt_embeds=self._embed(request.prompt),
            negative_prompt_embeds=self._embed(request.negative_prompt) if guided else None,
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
        ).frames
        if not np.isfinite(video_bfhwc).all():
            raise IntegrityError(
                f"{self.facts.variant.name} in {self.transformer.dtype} gave pixels that are not"
                f" finite for seed {request.seed}"
            )
        rgb_fhwc: np.ndarray = np.rint(video_bfhwc[0] * 255).astype(np.uint8)
        return rgb_fhwc

    def _require_possible(self, request: Request) -> None:
        problems = []
        steps, size = request.sampling.steps, request.size
        if steps < 1 or TRAIN_TIMESTEPS % steps:
            better = min(_divisors(TRAIN_TIMESTEPS), key=lambda divisor: abs(divisor - steps))
            wrong = f"does not divide {TRAIN_TIMESTEPS}, so steps would overlap"
            problems.append(Problem("sampling.steps", steps, wrong, f"use {better}"))
        step = self.facts.variant.frame_step
        if size.frames < 1 or (size.frames - 1) % step:
            # the pipeline takes 5 frames and returns 8: the VAE decodes latents in pairs
            wrong = f"has frames that are not {step}k + 1"
            problems.append(Problem("size", str(size), wrong, f"use {step + 1} frames"))
        side = self.facts.compression.spatial * self.facts.patch
        if size.height < 1 or size.width < 1 or size.height % side or size.width % side:
            wrong = f"has a side that is not a multiple of {side}"
            problems.append(Problem("size", str(size), wrong))
        if problems:
            raise ConfigError("this video cannot be generated", problems)

    def _embed(self, prompt: str) -> Tensor:
        if prompt not in self._embeddings:
            embeds_bsd = encode_prompts(self._text, [prompt], self.facts.text_tokens)
            self._embeddings[prompt] = embeds_bsd.to(self.transformer.dtype)
        return self._embeddings[prompt]


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]
