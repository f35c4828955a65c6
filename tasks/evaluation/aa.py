"""Judge the base against itself, run after run; see `cogvx.evaluation.aa`.

Loads the GPU stack: import it inside a command. Videos and losses are kept in the store as they are
made, and every finished run in a file, so that whatever is killed goes on. No document reaches the
videos, so pruning takes them when they are old.
"""

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from cogvx import files
from cogvx.data.manifest import Manifest
from cogvx.digest import canonical_json, digest
from cogvx.errors import ConfigError
from cogvx.evaluation.aa import (
    AaReport,
    AaRun,
    as_if_under,
    report_on,
    seeds_of_side,
    spreads_of,
    with_seeds,
)
from cogvx.evaluation.compare import Values
from cogvx.evaluation.documents import ArmResult, ArmRole, Verdict
from cogvx.evaluation.gate import RULE
from cogvx.evaluation.judge import judge
from cogvx.evaluation.looks import more_seeds, wants_second_look
from cogvx.evaluation.render import Arm
from cogvx.evaluation.screen import screen
from cogvx.evaluation.suite import Suite
from cogvx.evaluation.wording import Contest
from cogvx.inference.session import Session
from cogvx.objective.heldout import by_clip
from tasks.evaluation.gauges import Surroundings, gauges_for, look_around
from tasks.evaluation.heldout import losses_of
from tasks.evaluation.measure import heldout_of, one_session, render_here, score_footage
from tasks.pages.progress import Progress
from tasks.workbench import Workbench

logger = logging.getLogger(__name__)

RUNS_FILE, REPORT_FILE = "runs.jsonl", "aa.json"
_NAMES = ("base", "base again")
_BASE = Arm("base")

Side = Literal[0, 1]


@dataclass(frozen=True)
class _Twins:
    """The base as both arms of every run."""

    bench: Workbench
    suite: Suite
    manifest: Manifest
    open_session: Callable[[], Session]
    around: Callable[[], Surroundings]

    @property
    def identity(self) -> str:
        """What decides the numbers of a run, beside its own number."""
        recipe = self.bench.recipe
        return digest(
            {
                "rule": RULE,
                "suite": self.suite.digest,
                "base": self.bench.base_fingerprint,
                "dtype": recipe.base.dtype,
                "video": recipe.video.model_dump(mode="json"),
                "evaluation": recipe.evaluation.model_dump(mode="json"),
                "manifest": self.manifest.content_digest(),
                "strata": recipe.train.heldout_strata,
            }
        )

    def held(self, number: int) -> AaRun:
        """One run, with the second look if the first wants it."""
        arms = [self._arm(self.suite, number, side) for side in (0, 1)]
        verdicts = [self._judged(self.suite, arms, look=1)]
        if wants_second_look(verdicts[0], self.suite.gate):
            wide = more_seeds(self.suite)
            arms = [self._arm(wide, number, side) for side in (0, 1)]
            verdicts.append(self._judged(wide, arms, look=2))
        reference, candidate = arms
        losses: dict[ArmRole, Values] = {
            "reference": reference.losses(),
            "candidate": candidate.losses(),
        }
        return AaRun(
            of=self.identity,
            run=number,
            verdicts=tuple(verdicts),
            stopped_by_screen=screen(Contest(self.suite, *_NAMES), losses) is not None,
            spreads=spreads_of(arms),
        )

    def _arm(self, suite: Suite, number: int, side: Side) -> ArmResult:
        """The base on seeds and noise of its own, told as if on the suite's."""
        seeds = seeds_of_side(self.suite, number, side)
        other = with_seeds(suite, seeds)
        losses = by_clip(
            losses_of(
                self.bench,
                _BASE,
                heldout_of(self.bench, self.manifest),
                self.open_session,
                draw=1 + 2 * number + side,
            )
        )
        footage = render_here(self.bench, _BASE, other, self.open_session)
        gauges = partial(
            gauges_for,
            self.bench,
            _BASE,
            self.around(),
            suite=other,
            base_videos={(video.prompt_id, video.seed): video.path for video in footage.videos},
            open_session=self.open_session,
        )
        measured = score_footage(
            self.bench, _BASE, footage, suite=other, losses=losses, gauges=gauges
        )
        return as_if_under(suite, measured.result, seeds, name=_NAMES[side])

    def _judged(self, suite: Suite, arms: list[ArmResult], *, look: Literal[1, 2]) -> Verdict:
        reference, candidate = arms
        report = judge(
            suite,
            model=self.bench.recipe.name,
            candidate=candidate,
            reference=reference,
            provenance={},
            look=look,
            limits=self.around().limits,
        )
        return report.verdict


def hold_aa(
    bench: Workbench,
    suite: Suite,
    manifest: Manifest,
    *,
    runs: int,
    folder: Path,
    on_run: Callable[[AaRun], None] = lambda _run: None,
) -> AaReport:
    """Hold what is missing of so many runs, and count what came of them.

    Args:
        bench: The recipe's workbench; its base is loaded at most once.
        suite: Prompts, seeds and the rule that is tried.
        manifest: Whose held-out clips losses are measured on.
        runs: How many in all, at least one.
        folder: Gets `runs.jsonl`, one run a line, and `aa.json`; runs that are there are not held
            again.
        on_run: Called with each run of this call as it is finished.

    Raises:
        ConfigError: The folder has runs of something else.
        RecordsLost: Records of the held-out clips are absent or damaged.
    """
    around = functools.cache(partial(look_around, bench, suite, manifest))
    twins = _Twins(bench, suite, manifest, one_session(bench), around)
    path = folder / RUNS_FILE
    found = _read(path, twins.identity)
    progress = Progress("base against base", "runs", logger)
    for done, number in enumerate(range(runs)):
        progress(done, runs)
        if number in found:
            continue
        found[number] = twins.held(number)
        lines = [canonical_json(found[key]) for key in sorted(found)]
        files.write_bytes(path, b"\n".join(lines) + b"\n")
        on_run(found[number])
    progress(runs, runs)
    report = report_on([found[number] for number in range(runs)])
    files.write_document(folder / REPORT_FILE, report)
    return report


def _read(path: Path, identity: str) -> dict[int, AaRun]:
    """Runs that were held before, by number."""
    if not path.exists():
        return {}
    try:
        runs = [AaRun.model_validate_json(line) for line in path.read_bytes().splitlines()]
    except ValidationError as error:
        raise ConfigError(f"{path} is no list of runs; name another folder") from error
    if any(run.of != identity for run in runs):
        raise ConfigError(
            f"{path} has runs of another suite, recipe, base or set of clips; name another folder"
        )
    return {run.run: run for run in runs}
