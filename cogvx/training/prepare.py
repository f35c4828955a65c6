"""From a run folder to a learner that stands where its newest checkpoint left it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator
from diffusers import CogVideoXTransformer3DModel
from torch import Tensor, nn

from cogvx.cache.plan import record_paths
from cogvx.errors import ConfigError
from cogvx.model.load import torch_dtype
from cogvx.model.lora import lora_state, set_lora_state
from cogvx.objective.batch import Batches
from cogvx.objective.objective import Objective
from cogvx.objective.precision import scaler_of
from cogvx.objective.records import Records
from cogvx.objective.sampler import Sampler
from cogvx.preflight.fit import Fit
from cogvx.recipe_sections import TrainConfig
from cogvx.runs.disk import explained
from cogvx.runs.events import EventWriter, Recorder, Silent
from cogvx.runs.folder import RunFolder, RunSpec
from cogvx.runs.origin import keep_beginning
from cogvx.training.checkpoint import (
    BEST,
    Checkpoint,
    Checkpoints,
    Progress,
)
from cogvx.training.early_stop import Patience
from cogvx.training.ema import Ema
from cogvx.training.exam import Exam, curve_clips
from cogvx.training.fitting import fit, load_fitted
from cogvx.training.fork import read_fork
from cogvx.training.gauges import Gauges
from cogvx.training.journal import Journal
from cogvx.training.keep import Saver, footing, restore, say_where_it_goes_on
from cogvx.training.loop import Learner
from cogvx.training.optimiser import make_optimiser, require_optimiser
from cogvx.training.prefetch import Feed
from cogvx.training.readings import Watch
from cogvx.training.reckoning import peak_flops
from cogvx.training.share import from_first
from cogvx.training.stop import Stop


@dataclass(frozen=True)
class Trainer:
    """One process's share of a run. `transformer` is bare; `resumed_from` None for a new run."""

    learner: Learner
    journal: Journal
    transformer: CogVideoXTransformer3DModel
    fit: Fit
    resumed_from: int | None


def prepare(folder: RunFolder, spec: RunSpec, *, accelerator: Accelerator, stop: Stop) -> Trainer:
    """Load the base, attach the adapter, and put back the newest checkpoint if there is one.

    Raises:
        ConfigError: The base cannot be trained, the processes are not those of the recipe, the
            optimiser is not installed, or the checkpoint belongs to another run.
        DataError: There is no clip to train on.
        IntegrityError: Records are absent, the checkpoint is damaged, or the base is not the run's.
    """
    recipe, train = spec.recipe, spec.recipe.train
    base, device = Path(spec.base_folder), accelerator.device
    _require_processes(train.processes, accelerator.num_processes)
    require_optimiser(train)
    checkpoints = Checkpoints.of(folder, spec)
    # refuses another run's checkpoint first of all, with what has changed
    found, weights = from_first(accelerator, lambda: _beginning(folder, spec, checkpoints))
    if accelerator.is_local_main_process and not accelerator.is_main_process:
        spec.require_base()  # the first process has looked on its own machine

    objective = Objective.of(
        base, image_scale=recipe.base.image_latent_scale, min_snr_gamma=train.min_snr_gamma
    )
    batches = _batches(folder, spec, objective)
    events: Recorder = EventWriter(folder.events) if accelerator.is_main_process else Silent()
    if accelerator.is_main_process:
        keep_beginning(folder, spec)
    events.write("phase", name="loading")

    chosen = fit(recipe, objective.facts, accelerator)
    events.write("fit", **chosen.event())
    transformer, parameters = load_fitted(base, recipe, chosen, device=device)
    if weights is not None:
        set_lora_state(transformer, weights)  # now, since the mean begins where the weights do
    learner = Learner(
        accelerator=accelerator,
        model=accelerator.prepare_model(transformer),
        parameters=parameters,
        optimiser=make_optimiser(parameters, train),
        scaler=scaler_of(torch_dtype(recipe.base.dtype), device.type),
        objective=objective,
        feed=Feed(batches, rank=accelerator.process_index, device=device, ahead=chosen.prefetch),
        train=train,
        ema=_ema(transformer, parameters, train),
    )
    if found is not None:
        restore(learner, transformer, found)
        say_where_it_goes_on(found, footing(train, chosen), events)
    elif spec.fork is not None:  # machines that joined the first one do not know it
        events.write("forked", run=spec.fork.run, step=spec.fork.step)
    progress = Progress() if found is None else found.progress
    exam = _exam(learner, transformer, folder=folder, spec=spec, found=found, stop=stop)
    journal = Journal(
        Watch(
            accelerator,
            transformer,
            batches,
            optimiser=learner.optimiser,
            scaler=learner.scaler,
            gauges=Gauges(
                batches,
                recipe.lora,
                processes=train.processes,
                peak_flops=peak_flops(device, recipe.base.dtype),
            ),
            exam=exam,
        ),
        train,
        progress=progress,
        events=events,
        save=Saver(learner, transformer, checkpoints, footing(train, chosen), exam.patience),
    )
    return Trainer(
        learner=learner,
        journal=journal,
        transformer=transformer,
        fit=chosen,
        resumed_from=None if found is None else found.progress.step,
    )


def _exam(
    learner: Learner,
    transformer: CogVideoXTransformer3DModel,
    *,
    folder: RunFolder,
    spec: RunSpec,
    found: Checkpoint | None,
    stop: Stop,
) -> Exam:
    return Exam(
        accelerator=learner.accelerator,
        transformer=transformer,
        objective=learner.objective,
        heldout=spec.heldout,
        curve=curve_clips(spec.heldout, learner.train.heldout_clips),
        records=folder.records,
        strata=learner.train.heldout_strata,
        stop=stop,
        ema=learner.ema,
        patience=Patience(
            learner.train.early_stop_patience,
            best=None if found is None else found.progress.best,
            weights={} if found is None else found.tensors.get(BEST, {}),
        ),
    )


def _beginning(
    folder: RunFolder, spec: RunSpec, checkpoints: Checkpoints
) -> tuple[Checkpoint | None, dict[str, Tensor] | None]:
    """What to go on from: the newest checkpoint, another run's weights, or neither."""
    with explained(folder):  # in here, so that the others hear of it too
        checkpoints.tidy()
        found = checkpoints.newest()
        spec.require_base()
        return (found, None) if found is not None else (None, read_fork(folder, spec))


def _ema(
    transformer: CogVideoXTransformer3DModel,
    parameters: Sequence[nn.Parameter],
    train: TrainConfig,
) -> Ema | None:
    if not train.ema_decay:
        return None
    return Ema(dict(zip(lora_state(transformer), parameters, strict=True)), train.ema_decay)


def _batches(folder: RunFolder, spec: RunSpec, objective: Objective) -> Batches:
    Sampler.of([sample.size for sample in spec.train], spec.recipe.train)  # refuses an empty one
    records = Records(folder.records)
    batches = Batches(
        records=records,
        samples=spec.train,
        empty_prompt=spec.empty_prompt,
        objective=objective,
        train=spec.recipe.train,
    )
    names = record_paths((*spec.train, *spec.heldout), spec.empty_prompt)
    records.require(names)
    return batches


def _require_processes(wanted: int, found: int) -> None:
    if wanted != found:
        raise ConfigError(
            f"train.processes = {wanted} but {found} were started; use accelerate launch "
            f"--num_processes {wanted}, or change the recipe"
        )
