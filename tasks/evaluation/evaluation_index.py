"""Write down what an evaluation needs, before it is looked for: pruning keeps what this reaches.

Loads the GPU stack: import it inside a task's body.
"""

from collections.abc import Sequence

from cogvx.cache.keys import PromptKey
from cogvx.data.manifest import Manifest
from cogvx.digest import canonical_json
from cogvx.evaluation.index import EvaluationIndex, evaluation_path
from cogvx.evaluation.looks import more_seeds
from cogvx.evaluation.render import Arm, video_key
from cogvx.evaluation.suite import Suite
from tasks.evaluation.heldout import losses_path
from tasks.evaluation.measure import heldout_of, setting_of
from tasks.evaluation.sweep import sweep_of
from tasks.lineage import judgement
from tasks.workbench import Workbench


def write_index(bench: Workbench, arms: Sequence[Arm], suite: Suite, manifest: Manifest) -> None:
    """Name everything that judging these arms may use, a second look and a sweep included.

    Both looks from the start, so that no prune between them takes what the second one has made.
    """
    setting, heldout = setting_of(bench), heldout_of(bench, manifest)
    looks = (suite, more_seeds(suite)) if suite.gate.second_look else (suite,)
    drawn = [(arm, look) for look in looks for arm in arms]
    sweep = sweep_of(bench, arms[-1])
    if sweep is not None:
        drawn += [(arm, sweep.suite) for arm in sweep.arms]
    videos = (
        video_key(arm, look, prompt, seed, setting).path
        for arm, look in drawn
        for prompt, seed in look.shots
    )
    losses = (losses_path(bench, arm, heldout) for arm, _ in drawn)
    texts = (text for _, look in drawn for text in _texts(look))
    index = EvaluationIndex(
        videos=tuple(dict.fromkeys(videos)),
        heldout=tuple(dict.fromkeys(losses)),
        prompts=tuple(_embedding(bench, text) for text in dict.fromkeys(texts)),
    )
    place = evaluation_path(bench.run_identity(manifest), judgement(bench.recipe, suite))
    bench.store.write(place, canonical_json(index))


def _texts(suite: Suite) -> list[str]:
    """What the text encoder reads; the negative prompt only where there is guidance."""
    texts = [prompt.prompt for prompt in suite.prompts]
    return texts + ([suite.sampling.negative_prompt] if suite.sampling.guidance > 1 else [])


def _embedding(bench: Workbench, text: str) -> str:
    key = PromptKey(
        text=text,
        encoder_fingerprint=bench.ids.text,
        max_length=bench.facts.text_tokens,
        dtype=bench.recipe.base.dtype,
        batch=1,
    )
    return key.path
