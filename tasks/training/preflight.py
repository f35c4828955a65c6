"""The first step of training: what it will take, said in seconds and before anything is cached."""

import logging
from dataclasses import replace

from prefect import task
from prefect.cache_policies import NO_CACHE

from cogvx.check import Purpose, check_recipe
from cogvx.preflight.devices import named_device
from cogvx.preflight.estimate import Circumstances, Estimate, estimate
from cogvx.preflight.wording import run_text
from cogvx.recipe import Recipe
from tasks.clients.stores import open_record_store
from tasks.settings import settings
from tasks.training.speeds import known_utilisation

logger = logging.getLogger(__name__)


@task(name="preflight", cache_policy=NO_CACHE)
def preflight(recipe: Recipe, *, purpose: Purpose = "train") -> Estimate | None:
    """Estimate a run on the GPU that COGVX_GPU names, and refuse what cannot fit there.

    Without a name there is nothing to hold the recipe against: the trainer looks at its own machine
    later, and chooses by what is free there. How fast earlier runs went on such a GPU is known from
    the store.

    Returns:
        The estimate; None for a base that is neither here nor known.

    Raises:
        ConfigError: With every problem of the recipe, those of the GPU among them.
    """
    here = settings()
    device = named_device(here.gpu, where="COGVX_GPU") if here.gpu else None
    checked = check_recipe(recipe, purpose=purpose, device=device)
    if checked.facts is None:
        logger.info("%s is not here yet: nothing is estimated", recipe.base.path)
        return None
    on_gpu = here.device != "cpu" or device is not None
    given = Circumstances(device, on_gpu=on_gpu, price=here.gpu_hour_price)
    found = estimate(recipe, checked.facts, given=given)
    if device is not None:
        seen = known_utilisation(
            open_record_store(here),
            checked.facts,
            device.name,
            found.checkpointing,
            compiles=found.compiles,
        )
        found = estimate(recipe, checked.facts, given=replace(given, utilisation=seen))
    logger.info(
        "training takes %.1f GiB on %s; %.2f M parameters, %s TFLOP a step%s",
        found.needs.total,
        given.machine.name,
        found.adapter_parameters / 1e6,
        " or ".join(f"{size.tflop:.4g}" for size in found.sizes),
        f": {text}" if (text := run_text(found)) else "",
    )
    return found
