"""What differs between two recipes is told setting by setting, and nothing else is."""

from cogvx.evaluation.changes import recipe_changes

OLD = """
name = "tiny"

[train]
steps = 240
learning_rate = 1e-4
mirrored = true

[lora]
targets = ["to_q", "to_k"]

[evaluation]
suite = "a.toml"
"""


def told(new: str) -> dict[str, tuple[str, str]]:
    changes = recipe_changes(OLD, new)
    return {change.setting: (change.reference, change.candidate) for change in changes}


def test_one_recipe_does_not_differ_from_itself() -> None:
    assert recipe_changes(OLD, OLD) == ()


def test_changed_settings_are_told_with_both_values() -> None:
    new = OLD.replace("240", "480").replace('"to_k"', '"to_v"').replace("true", "false")
    assert told(new) == {
        "train.steps": ("240", "480"),
        "train.mirrored": ("true", "false"),
        "lora.targets": ('["to_q", "to_k"]', '["to_q", "to_v"]'),
    }


def test_settings_that_one_recipe_leaves_out_are_told() -> None:
    new = OLD.replace("mirrored = true\n", "").replace("steps =", "ema = 0.99\nsteps =")
    assert told(new) == {
        "train.mirrored": ("true", "not set"),
        "train.ema": ("not set", "0.99"),
    }


def test_how_it_is_judged_and_what_it_is_called_is_no_change() -> None:
    assert told(OLD.replace("a.toml", "b.toml").replace("tiny", "other")) == {}
