"""A suite is refused with all its problems, and named by everything that decides a result."""

import hashlib
import json
from pathlib import Path

import pytest
from PIL import Image

from cogvx.errors import ConfigError
from cogvx.evaluation.suite import Suite, load_suite, suite_problems
from cogvx.evaluation.suite_texts import overlap_problems
from cogvx.model.nano import world
from tests.evaluation.builders import suite_document, suite_of

NANO = Path("deployments/suites/nano.toml")


def test_the_shipped_suite_is_read():
    suite = load_suite(NANO)
    assert suite.gate.primaries == ("heldout_loss",)
    assert suite.videos == len(suite.prompts) * len(suite.seeds)


def test_the_shipped_suite_asks_for_no_caption_of_the_world():
    captions = [caption for seed in range(20) for caption in world.captions(100, seed)]
    assert overlap_problems(load_suite(NANO), captions) == []


def test_every_problem_is_told_at_once(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text(
        """
        name = "Bad Name"
        split = "gate"
        seeds = [1, 1, -4]
        typo = 3
        [sampling]
        steps = 30
        guidance = 0.5
        sampler = "dpm"
        [[prompts]]
        id = "a/b"
        prompt = "x"
        [[prompts]]
        id = "same"
        prompt = "a red  Circle"
        [[prompts]]
        id = "same"
        prompt = "A red circle"
        [[prompts]]
        id = "empty"
        prompt = "  "
        [gate]
        primaries = ["heldout_los", "brightness"]
        [[gate.guards]]
        metric = "temporal_flicker"
        margin = 0.1
        """
    )
    with pytest.raises(ConfigError) as caught:
        load_suite(path)
    message = str(caught.value)
    for said in (
        'name = "Bad Name"',
        'seeds = "1" stands there 2 times',
        "seeds = -4 is not a seed",
        "typo = 3 is not a setting",
        "sampling.guidance = 0.5",
        'prompts[0].id = "a/b"',
        'prompts.id = "same" stands there 2 times',
        'prompts.prompt = "a red circle" stands there 2 times',
        'prompts["empty"].prompt = "  " is empty',
        'closest: "heldout_loss"',
        'gate.primaries[1] = "brightness" has no better side',
        'gate.guards[0].metric = "temporal_flicker" is no metric; closest: "temporal_flickering"',
    ):
        assert said in message, f"{said}\n{message}"


@pytest.mark.parametrize(
    ("steps", "use"),
    [(30, "use 20, 25, 40 or 50"), (3, "use 1, 2, 4 or 5"), (1500, "use 500 or 1000")],
)
def test_steps_that_do_not_divide_1000_come_with_steps_that_do(steps, use):
    document = suite_document(sampling={"steps": steps, "guidance": 6.0, "sampler": "dpm"})
    (problem,) = suite_problems(document)
    assert str(problem).endswith(use)


def test_missing_parts_are_each_named():
    problems = [str(problem) for problem in suite_problems({"name": "x", "split": "dev"})]
    for part in ("sampling", "prompts", "gate", "seeds"):
        assert sum(problem.startswith(part) for problem in problems) == 1


def test_a_right_document_has_no_problem_and_is_accepted():
    assert suite_problems(suite_document()) == []
    assert Suite.model_validate(suite_document()).seeds == (1, 2)


def test_the_digest_holds_what_decides_and_not_how_it_is_written(tmp_path):
    one, two = tmp_path / "one.toml", tmp_path / "two.toml"
    text = NANO.read_text()
    one.write_text(text)
    two.write_text("# another comment\n" + text.replace('split = "gate"', 'split    = "gate"'))
    assert load_suite(one).digest == load_suite(two).digest
    two.write_text(text.replace("margin = 8.0", "margin = 9.0"))
    assert load_suite(one).digest != load_suite(two).digest


def test_the_digest_of_a_known_suite_stays():
    # A change here makes every champion's videos and verdicts incomparable with new ones.
    assert suite_of().digest == "3adec884be4a553e437469d4479db641859ff7c7604e82ea23650c8d5d97a705"


def test_the_digest_of_a_shipped_suite_stays():
    shipped = load_suite(Path("deployments/suites/cogvideox.toml"))
    assert shipped.digest == "8613d003a84604850ff2c485ecafb2f7160c153f661a45ea6faed94ecca088de"


def test_a_prompt_may_have_seeds_of_its_own():
    prompts = suite_document()["prompts"]
    same = suite_of(prompts=[{**prompts[0], "seeds": [1, 2]}, *prompts[1:]])
    assert same.digest == suite_of().digest
    more = suite_of(prompts=[{**prompts[0], "seeds": [2, 7, 8]}, *prompts[1:]])
    assert more.digest != suite_of().digest
    assert [seed for prompt, seed in more.shots if prompt.id == "circle"] == [2, 7, 8]
    assert more.all_seeds == (1, 2, 7, 8)
    assert more.videos == len(more.shots) == 3 + 2 * (len(prompts) - 1)


def picture(path, shade):
    Image.new("RGB", (64, 64), (shade, 0, 0)).save(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def with_images(**more):
    prompts = [{**p, "image": f"{p['id']}.png", **more} for p in suite_document()["prompts"][:2]]
    return suite_document(prompts=prompts)


def test_a_first_frame_is_named_by_its_bytes_wherever_it_lies(tmp_path):
    digests = []
    for folder, shade in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / folder).mkdir()
        for name in ("circle", "square"):
            sha256 = picture(tmp_path / folder / f"{name}.png", shade)
        path = tmp_path / folder / "suite.json"
        path.write_text(json.dumps(with_images()))
        suite = load_suite(path)
        assert {prompt.image_sha256 for prompt in suite.prompts} == {sha256}
        assert suite.prompts[0].image == str(tmp_path / folder / "circle.png")
        digests.append(suite.digest)
    assert digests[0] == digests[1] != digests[2] != suite_of().digest
    path.write_text(json.dumps(with_images(image_sha256=sha256)))
    assert load_suite(path).digest == digests[2]


def test_pictures_that_are_missing_others_or_only_some_are_told_at_once(tmp_path):
    path = tmp_path / "suite.json"
    sha256 = picture(tmp_path / "circle.png", 1)
    path.write_text(json.dumps(with_images(image_sha256="0" * 64)))
    with pytest.raises(ConfigError) as caught:
        load_suite(path)
    said = str(caught.value)
    assert f'image = "circle.png" is another picture: its sha256 is {sha256}' in said
    assert 'image = "square.png" cannot be read: No such file' in said
    document = with_images()
    del document["prompts"][1]["image"]
    document["prompts"][1]["image_sha256"] = "0" * 64
    document["prompts"][1]["seeds"] = [3, 3, -1]
    told = "\n".join(str(problem) for problem in suite_problems(document))
    assert 'prompts["square"].image is missing, and other prompts have one' in told
    assert 'prompts["square"].image_sha256 is of no picture' in told
    assert 'prompts["square"].seeds = "3" stands there 2 times' in told
    assert 'prompts["square"].seeds = -1 is not a seed' in told


def test_training_captions_are_refused_as_prompts_except_to_measure_memory():
    captions = ["A red  circle moves left", "something else"]
    (problem,) = overlap_problems(suite_of(), captions)
    assert 'prompts["circle"]' in str(problem)
    prompts = suite_document()["prompts"]
    prompts[0]["group"] = "train_caption"
    assert overlap_problems(suite_of(prompts=prompts), captions) == []
