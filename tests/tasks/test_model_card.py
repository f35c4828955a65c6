"""The page of a version: true to its card, short enough for MLflow, and with snippets that run."""

import re
import tomllib
from typing import Any

import pytest

from cogvx.recipe import Recipe, parse_recipe
from cogvx.variants import COGVIDEOX_5B, COGVIDEOX_5B_I2V, COGVIDEOX_15_5B_I2V, Variant
from tasks.clients.model_card import (
    MOST_CHARACTERS,
    Judged,
    ModelPage,
    Taught,
    artifact_link,
    description,
    model_card,
    recipe_toml,
)
from tests.adapters.toys import toy_card

JUDGED = Judged(
    outcome="PROMOTE",
    headline="challenger v3 is better than champion v2 on heldout_loss.",
    reasons=("heldout_loss 0.3523 -> 0.0467: better.",),
    reference="champion v2",
    picture=artifact_link("run-id", "card/frames.png"),
)


def recipe(**sections: dict[str, Any]) -> Recipe:
    document: dict[str, Any] = {
        "name": "style",
        "base": {"path": "zai-org/CogVideoX-5b", "dtype": "bfloat16"},
        "dataset": {"uri": "s3://clips/style"},
        "video": {"frames": 49, "height": 480, "width": 720, "fps": 8},
        "train": {"steps": 2000},
        "evaluation": {"suite": "suite.toml"},
    }
    for name, section in sections.items():
        document[name] = {**document.get(name, {}), **section}
    found, problems = parse_recipe(document)
    assert found is not None, problems
    return found


def page(variant: Variant = COGVIDEOX_5B, judged: Judged | None = None, **card: Any) -> ModelPage:
    base = {"base_path": f"zai-org/{variant.name}", "base_revision": "a" * 40}
    return ModelPage(
        name="style",
        card=toy_card(**{**base, **card}),
        recipe=recipe(),
        variant=variant,
        taught=Taught(
            dataset="s3://clips/style",
            trained_on=45,
            held_out=5,
            train_loss=0.0703,
            heldout_before=0.3523,
            heldout_after=0.0467,
            best_step=1750,
        ),
        judged=judged,
    )


@pytest.mark.parametrize("text", [model_card(page()), description(page())])
def test_a_page_says_what_it_is_what_it_learned_from_and_how_to_use_it(text: str) -> None:
    for told in (
        "LoRA adapter of rank 8",
        "49 frames, 480 x 720 pixels",
        "[zai-org/CogVideoX-5b](https://huggingface.co/zai-org/CogVideoX-5b) at `aaaa",
        f"`{'f' * 64}`",
        f"| manifest | `{'d' * 64}` |",
        "45 trained on, 5 held out",
        "| held-out loss | 0.3523 before, 0.0467 after |",
        "| weights of step | 1750 |",
        'mlflow.pyfunc.load_model("models:/style@champion")',
        "cogvx generate --adapter models:/style@champion",
        "pipe.load_lora_weights(",
        "look it up before you publish",
        "**Not judged yet.**",
        "steps = 2000",
    ):
        assert told in text
    assert "<" not in text


def test_a_verdict_stands_at_the_top_with_frames_that_mlflow_finds() -> None:
    text = description(page(judged=JUDGED))
    assert "**PROMOTE** against champion v2: challenger v3 is better" in text
    assert "](get-artifact?path=card%2Fframes.png&run_uuid=run-id)" in text
    assert "- heldout_loss 0.3523 -> 0.0467: better." in text
    assert text.index("PROMOTE") < text.index("## What it is")


def test_lists_of_versions_show_the_verdict_first() -> None:
    assert description(page(judged=JUDGED)).startswith("**PROMOTE** against champion v2")
    assert description(page()).startswith("**Not judged yet.**")
    assert model_card(page()).startswith("# style\n")


def test_a_description_is_never_longer_than_mlflow_keeps() -> None:
    many = tuple(f"reason {number} " + "words " * 10 for number in range(400))
    for reasons in (1, 5, 20, 35, 50, 60, 80, 400):
        judged = Judged("HOLD", "Nothing was decided.", many[:reasons], "base", "x.png")
        text = description(page(judged=judged))
        assert len(text) <= MOST_CHARACTERS
        assert "**HOLD** against base" in text
        assert "reason 0" in text
        assert "| base |" in text
    whole = model_card(page(judged=Judged("HOLD", "Undecided.", many, "base", "x.png")))
    assert "reason 399" in whole
    assert "steps = 2000" in whole


@pytest.mark.parametrize(
    ("variant", "scale", "plain"),
    [
        (COGVIDEOX_5B_I2V, "multiplied", True),
        (COGVIDEOX_15_5B_I2V, "divided", True),
        (COGVIDEOX_15_5B_I2V, "raw", False),
        (COGVIDEOX_15_5B_I2V, "multiplied", False),
    ],
)
def test_plain_diffusers_is_advised_only_where_it_scales_first_frames_alike(
    variant: Variant, scale: str, plain: bool
) -> None:
    text = model_card(page(variant, image_latent_scale=scale))
    assert ("CogVideoXImageToVideoPipeline" in text) == plain
    assert (f"was trained with it {scale}" in text) == (not plain)
    assert '"image": "first.png"' in text
    assert "--image first.png" in text


def test_a_recipe_is_read_back_to_itself() -> None:
    odd = 'a "quoted"\\path\twith\x7f\x01 \u00fc\U0001f3a5\n'
    for chosen in (
        recipe(),
        recipe(dataset={"uri": odd}, train={"steps": 300, "learning_rate": 1e-5, "max_hours": 1.5}),
        recipe(video={"buckets": ["17x480x720"]}, lora={"targets": ["to_q"], "rank": 64}),
    ):
        for defaults in (True, False):
            document = tomllib.loads(recipe_toml(chosen, defaults=defaults))
            assert parse_recipe(document)[0] == chosen
    assert "[lora]" not in recipe_toml(recipe(), defaults=False)


def test_what_people_wrote_does_not_break_the_page() -> None:
    text = model_card(page(base_path="/models/a|b`c", base_revision=None, manifest=None))
    assert "| base | `/models/a/b'c` |" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(len(re.findall(r"\|", row)) == 3 for row in rows)
