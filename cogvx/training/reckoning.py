"""What a start of a run should take on this very machine, and in the end what it took."""

from collections import Counter

import torch

from cogvx.preflight.compare import Measured, measure_run
from cogvx.preflight.devices import Device, known_device
from cogvx.preflight.estimate import Circumstances, Estimate, estimate
from cogvx.preflight.fit import Fit
from cogvx.preflight.heldout import HeldoutWindows
from cogvx.runs.events import history
from cogvx.runs.folder import RunFolder, RunSpec
from cogvx.training.exam import curve_clips
from cogvx.training.gauges import peak_memory_gib
from cogvx.variants import BaseFacts, DType


def device_here(device: torch.device) -> Device | None:
    """The GPU that this is, if its speed is known."""
    return known_device(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def peak_flops(device: torch.device, dtype: DType) -> float | None:
    """Arithmetic a second that this device can do in a precision; None where nobody said."""
    known = device_here(device)
    return None if known is None else known.peak_flops(dtype)


def reckon(spec: RunSpec, facts: BaseFacts, fit: Fit, device: torch.device) -> Estimate:
    """What training should take, fitted as it is to this machine."""
    curve = curve_clips(spec.heldout, spec.recipe.train.heldout_clips)
    given = Circumstances(
        device_here(device),
        on_gpu=device.type == "cuda",
        clips=len(spec.train) or None,
        by_size=Counter(str(sample.size) for sample in spec.train),
        heldout=HeldoutWindows(
            curve=sum(sample.clip in curve for sample in spec.heldout), total=len(spec.heldout)
        ),
    )
    return estimate(spec.recipe, facts, given=given, fit=fit)


def look_back(folder: RunFolder, spec: RunSpec, found: Estimate, device: torch.device) -> Measured:
    """What this start of the run took."""
    return measure_run(
        history(folder.events),
        found,
        on_gpu=device.type == "cuda",
        memory_gib=peak_memory_gib(device),
        global_batch=spec.recipe.train.global_batch,
    )
