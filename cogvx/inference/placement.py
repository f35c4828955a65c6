"""Where a pipeline's models lie: hooks of diffusers and accelerate bring them to the device.

The hooks hold on to the weights that they move, or leave empty ones in their place. So they are
taken off before weights change, and put on again before the next video.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import accelerate
import torch
from accelerate.hooks import remove_hook_from_module
from diffusers.hooks import HookRegistry, apply_group_offloading
from torch import nn

from cogvx.errors import ConfigError, Problem
from cogvx.inference.memory import Memory, Offload
from cogvx.inference.pipelines import Pipeline

# what diffusers takes off in its own loader, under names that it keeps to itself
_GROUP_HOOKS = ("group_offloading", "layer_execution_tracker", "lazy_prefetch_group_offloading")


def require_offload(offload: Offload, device: str) -> None:
    """Refuse what cannot work on a device.

    Raises:
        ConfigError: Layers are to be fetched one by one to the memory that they lie in already.
    """
    if offload == "sequential" and torch.device(device).type == "cpu":
        wrong = "fetches every layer to a GPU, and this is a CPU, whose memory holds them all"
        raise ConfigError(str(Problem("memory.offload", offload, wrong, 'use "none"')))


class Placement:
    """A pipeline's models, at rest while they may change, or arranged to run.

    While nothing is offloaded both are the same.
    """

    _is_arranged: bool

    def __init__(self, pipeline: Pipeline, *, device: str, memory: Memory) -> None:
        """Take a pipeline whose models lie on the device, or, if any is to wait, on the CPU."""
        self._pipeline = pipeline
        self._device = torch.device(device)
        self._offload = memory.offload
        self._is_arranged = False

    def arrange(self) -> None:
        """Make the pipeline ready to run; again and again costs nothing."""
        if self._is_arranged:
            return
        pipeline = self._pipeline
        if self._offload == "none":
            pipeline.vae.to(self._device)
            pipeline.transformer.to(self._device)
        elif self._offload == "model":
            pipeline.enable_model_cpu_offload(device=self._device)
        elif self._offload == "sequential":
            pipeline.enable_sequential_cpu_offload(device=self._device)
        else:
            # the VAE is small, and runs in pieces that its blocks know nothing of
            pipeline.vae.to(self._device)
            apply_group_offloading(
                pipeline.transformer,
                onload_device=self._device,
                offload_device=torch.device("cpu"),
                offload_type="block_level",
                num_blocks_per_group=1,
                use_stream=self._device.type == "cuda",
            )
        self._is_arranged = True

    def rest(self) -> None:
        """Take the hooks off, which leaves every weight whole and in main memory."""
        if not self._is_arranged or self._offload == "none":
            return
        transformer = self._pipeline.transformer
        self._pipeline.remove_all_hooks()
        registry = HookRegistry.check_if_exists_or_initialize(transformer)
        for name in _GROUP_HOOKS:
            registry.remove_hook(name, recurse=True)
        transformer.to("cpu")
        self._is_arranged = False


@contextmanager
def running(model: nn.Module, device: str, offload: Offload) -> Iterator[None]:
    """Have one model run on the device for a moment, which otherwise waits in main memory."""
    if offload == "none":
        yield
    elif offload == "sequential":
        accelerate.cpu_offload(model, torch.device(device))
        try:
            yield
        finally:
            remove_hook_from_module(model, recurse=True)
    else:
        model.to(device)
        try:
            yield
        finally:
            model.to("cpu")
