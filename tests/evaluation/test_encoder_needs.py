"""What a suite asks of networks is told before anything is loaded, and all at once."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cogvx.evaluation.encoder_needs import asked_problems, network_warnings
from tests.evaluation.builders import suite_of
from tests.metrics.networks import build_networks

GATE = {
    "primaries": ["text_alignment_clip", "domain_similarity_dinov2"],
    "guards": [{"metric": "motion_magnitude"}, {"metric": "diversity_dinov2", "margin": 0.1}],
    "ceilings": [{"metric": "memorisation_clip"}],
}


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    return build_networks(tmp_path_factory.mktemp("networks"))


def told(suite, encoders):
    return [str(problem) for problem in asked_problems(suite, encoders)]


def test_a_metric_whose_network_nobody_names_is_refused(named):
    found = told(suite_of(gate=GATE), {"dinov2": named["dinov2"]})
    assert found == [
        f'gate.{where} = "{name}" needs a network, which evaluation.encoders.clip must name; '
        "name one there, or remove the metric"
        for where, name in (
            ("primaries[0]", "text_alignment_clip"),
            ("ceilings[0].metric", "memorisation_clip"),
        )
    ]
    assert len(told(suite_of(gate=GATE), {})) == 4
    assert told(suite_of(gate=GATE), named) == []
    assert told(suite_of(), {}) == []


def test_who_sees_no_recipe_is_warned():
    found = [str(problem) for problem in network_warnings(suite_of(gate=GATE))]
    assert len(found) == 4
    assert "recipes with this suite need one" in found[0]


def test_texts_are_held_against_vocabularies_that_are_there(named, tmp_path):
    red = " ".join(["red"] * 66)
    suite = suite_of(prompts=[{"id": "a", "prompt": "a red ring " + red, "eval_text": red}])
    pinned = {"clip": f"openai/clip-vit-base-patch32@{'0' * 40}"}
    assert told(suite, pinned) == []  # told when it is opened
    (found,) = told(suite, named)
    assert found.startswith('prompts["a"].eval_text = "red red')
    assert "has 67 tokens, of which siglip2 reads 64" in found
    shutil.copytree(named["clip"], tmp_path / "clip")
    (tmp_path / "clip" / "tokenizer.json").write_text("[]")
    assert "cannot be used" in told(suite, {"clip": str(tmp_path / "clip")})[0]


def test_no_network_is_loaded_for_it(named):
    code = (
        "import sys; from cogvx.evaluation.encoder_needs import asked_problems\n"
        "from cogvx.metrics.encoder_files import encoder_problems\n"
        "from tests.evaluation.builders import suite_of\n"
        f"named = {named!r}\n"
        "assert encoder_problems(named) == asked_problems(suite_of(), named) == []\n"
        "assert not {'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path.cwd(), timeout=120)
