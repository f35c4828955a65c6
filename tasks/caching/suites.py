"""The suites that a recipe names, held against the clips that it trains on. Loads no GPU stack."""

from pathlib import Path

from cogvx.data.manifest import Manifest
from cogvx.errors import ConfigError, Problem
from cogvx.evaluation.suite import Suite, load_suite
from cogvx.evaluation.suite_texts import overlap_problems
from cogvx.recipe import Recipe


def suite_apart(recipe: Recipe, manifest: Manifest) -> Suite:
    """The recipe's suite, none of whose prompts is trained on unless its group says so.

    The sweep's suite must be as far apart: a weight that is chosen on training captions is chosen
    for memory.

    Raises:
        ConfigError: A suite cannot be read, or asks for training captions; all of both are named.
    """
    asked = recipe.evaluation
    captions = [clip.caption for clip in manifest.train]
    suite = load_suite(Path(asked.suite))
    found = {asked.suite: overlap_problems(suite, captions)}
    if asked.sweep is not None:
        found[asked.sweep.suite] = overlap_problems(load_suite(Path(asked.sweep.suite)), captions)
    wrong = {path: problems for path, problems in found.items() if problems}
    if len(wrong) > 1:
        raise ConfigError("suites", [_of(path, each) for path in wrong for each in wrong[path]])
    for path, problems in wrong.items():
        raise ConfigError(path, problems)
    return suite


def _of(path: str, problem: Problem) -> Problem:
    return Problem(f"{path}: {problem.where}", problem.value, problem.wrong, problem.use)
