"""Rules that need only the recipe: between settings, and those of the model's own repository."""

from collections.abc import Mapping

from cogvx.errors import Problem
from cogvx.recipe_sections import (
    DatasetConfig,
    EvaluationConfig,
    LoraConfig,
    SweepConfig,
    TrainConfig,
    VideoConfig,
)
from cogvx.section import Section
from cogvx.shapes import VideoSize

MIN_RANK = 64
_LEAST_PRODIGY_RATE = 0.1


def rule_problems(sections: Mapping[str, Section]) -> list[Problem]:
    """Rules inside a section and between two, applied to those sections that could be read."""
    problems: list[Problem] = []
    video, lora, train = sections.get("video"), sections.get("lora"), sections.get("train")
    if isinstance(video, VideoConfig):
        problems += video_problems(video)
    if isinstance(lora, LoraConfig) and not lora.allow_unusual:
        problems += lora_problems(lora)
    if isinstance(train, TrainConfig):
        problems += train_problems(train)
        dataset = sections.get("dataset")
        if isinstance(dataset, DatasetConfig):
            problems += heldout_problems(train, dataset)
    evaluation = sections.get("evaluation")
    if isinstance(evaluation, EvaluationConfig) and evaluation.sweep is not None:
        problems += sweep_problems(evaluation.sweep)
    return problems


def video_problems(video: VideoConfig) -> list[Problem]:
    """Buckets that are there twice."""
    sizes = video.sizes
    return [
        Problem(f"video.buckets[{index}]", bucket, "is there twice", "remove it")
        for index, bucket in enumerate(video.buckets)
        if VideoSize.parse(bucket) in sizes[: index + 1]
    ]


def lora_problems(lora: LoraConfig) -> list[Problem]:
    """Departures from the rules of the model's own repository.

    Source: CogVideo finetune/README: rank at least 64, alpha equal to rank or half of it; an alpha
    of 1 is the trap of checkpoints that were trained with another framework's default.
    """
    problems = []
    if lora.rank < MIN_RANK:
        problems.append(
            Problem(
                "lora.rank",
                lora.rank,
                f"is below {MIN_RANK}, too small for CogVideoX to learn a concept",
                f"use {MIN_RANK} or 128, or set lora.allow_unusual = true",
            )
        )
    if lora.alpha not in (lora.rank, lora.rank // 2):
        wrong = f"is neither lora.rank = {lora.rank} nor half of it"
        if lora.alpha == 1:
            wrong += f": the adapter would act at scale 1/{lora.rank} = {lora.scale:.3f}"
        problems.append(
            Problem(
                "lora.alpha",
                lora.alpha,
                wrong,
                f"use {lora.rank} or {lora.rank // 2}, or set lora.allow_unusual = true",
            )
        )
    return problems


def train_problems(train: TrainConfig) -> list[Problem]:
    """Settings of one training section that contradict each other."""
    problems = []
    at_once = train.micro_batch * train.processes
    if train.global_batch % at_once:
        lower = at_once * (train.global_batch // at_once)
        better = " or ".join(str(batch) for batch in (lower, lower + at_once) if batch)
        unit = "train.micro_batch" if train.processes == 1 else "micro_batch x processes"
        problems.append(
            Problem(
                "train.global_batch",
                train.global_batch,
                f"is not a multiple of {unit} = {at_once}",
                f"use {better}",
            )
        )
    if train.warmup_steps >= train.steps:
        problems.append(
            Problem(
                "train.warmup_steps",
                train.warmup_steps,
                f"never ends within train.steps = {train.steps}",
                f"use at most {train.steps - 1}",
            )
        )
    if train.optimiser == "prodigy" and train.learning_rate < _LEAST_PRODIGY_RATE:
        problems.append(
            Problem(
                "train.learning_rate",
                train.learning_rate,
                'is meant for AdamW: "prodigy" finds its own rate and multiplies it with this',
                "use 1",
            )
        )
    return problems


def heldout_problems(train: TrainConfig, dataset: DatasetConfig) -> list[Problem]:
    """What training asks of clips that the dataset does not hold out."""
    if not train.early_stop_patience or dataset.heldout_share or dataset.min_heldout:
        return []
    return [
        Problem(
            "train.early_stop_patience",
            train.early_stop_patience,
            "waits for a lower loss on held-out clips, and none is held out",
            "raise dataset.min_heldout to 2 or more, or use 0",
        )
    ]


def sweep_problems(sweep: SweepConfig) -> list[Problem]:
    """Weights that would draw nothing new, or turn the adapter round."""
    problems = []
    for index, weight in enumerate(sweep.weights):
        where = f"evaluation.sweep.weights[{index}]"
        if weight == 0:
            wrong = "is the base, which is drawn anyway"
            problems.append(Problem(where, weight, wrong, "remove it"))
        elif weight < 0:
            wrong = "takes away what the adapter has learned"
            problems.append(Problem(where, weight, wrong, "use weights above 0"))
        elif weight in sweep.weights[:index]:
            problems.append(Problem(where, weight, "is there twice", "remove it"))
    return problems
