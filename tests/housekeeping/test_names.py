"""Every object that we put has a kind, and nothing else has one."""

import pytest

from cogvx.cache.keys import record_path
from cogvx.evaluation.index import evaluation_path
from cogvx.housekeeping.names import KINDS, kind_of, name_of
from cogvx.runs.carry import checkpoint_prefix, latest_key
from cogvx.runs.saved import STATE_FILE, folder_name
from cogvx.training.checkpoint import tensor_file

NAME = "ab" + "c" * 62


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (record_path("latents", NAME), "latents"),
        (record_path("images", NAME), "images"),
        (record_path("prompts", NAME), "prompts"),
        (f"videos/ab/{NAME}.mp4", "videos"),
        (f"heldout/ab/{NAME}.json", "heldout"),
        (f"drift/ab/{NAME}.json", "drift"),
        (f"scores/ab/{NAME}.json", "scores"),
        (f"features/ab/{NAME}", "features"),
        (f"proofs/ab/{NAME}.json", "proofs"),
        (f"adapters/{NAME}/pytorch_lora_weights.safetensors", "adapters"),
        (evaluation_path(NAME, NAME), "evaluations"),
        (f"indexes/{NAME}.json", "indexes"),
        (f"plans/{NAME}.json", "plans"),
        (f"plans/images/{NAME}.png", "plans"),
        ("shards/0193f1c2-7d7b-7a53-8bd4-0a4f6f8f2c11.json", "plans"),
        (f"manifests/{NAME[:32]}/{NAME}.json", "manifests"),
        (f"manifests/{NAME[:32]}/latest", "pointers"),
        (f"manifests/{NAME[:32]}/change.json", "pointers"),
        (f"pages/{NAME}/{NAME}.html", "pages"),
        (f"runs/{NAME}/run.json", "runs"),
        (f"runs/{NAME}/outcome.json", "runs"),
        (latest_key(NAME), "resumes"),
        (checkpoint_prefix(NAME, folder_name(200)) + STATE_FILE, "checkpoints"),
        (checkpoint_prefix(NAME, folder_name(200)) + tensor_file("ema"), "checkpoints"),
        (f"probes/{NAME}.json", "probes"),
        (f"tilings/{NAME[:32]}/49x480x720.json", "tilings"),
        ("registry/tiny/1763784941000/00000012.json", "decisions"),
        ("registry/tiny/1763784941000/hands/00000012-0123456789ab", "decisions"),
        ("speeds/h100-cogvideox-5b-full.json", "speeds"),
        (f"arrivals/{NAME[:32]}/00000001.json", "arrivals"),
        (f"arrivals/{NAME[:32]}/00000001.sent", "arrivals"),
        (f"costs/tiny-2/attempts/{NAME[:32]}.json", "costs"),
        ("costs/tiny-2/sums/00000001.json", "costs"),
        ("retention/marks.json", "marks"),
        ("generated/look/job.json", "generated"),
        ("generated/look/index.jsonl", "generated"),
        ("generated/look/index.html", "generated"),
        ("generated/look/videos/001-a-circle-seed0-scale0.5.mp4", "generated"),
        (f"generated/look/images/{NAME}.png", "generated"),
        (f"records/latents/ab/.aside-0123456789ab-{NAME}.safetensors", "leftovers"),
        (f"runs/{NAME}/.aside-0123456789ab-outcome.json", "leftovers"),
        (".aside-0123456789ab-.writable", "leftovers"),
    ],
)
def test_what_we_put_has_a_kind(key: str, kind: str) -> None:
    assert kind_of(key) == kind
    assert kind in KINDS


@pytest.mark.parametrize(
    "key",
    [
        "",
        "latest",
        record_path("latents", NAME) + ".bak",
        f"records/latents/ff/{NAME}.safetensors",
        f"records/latents/ab/{NAME.upper()}.safetensors",
        f"records/others/ab/{NAME}.safetensors",
        f"old/{record_path('latents', NAME)}",
        f"runs/{NAME}/notes.txt",
        f"runs/{NAME}/checkpoints/step-00000200/notes.txt",
        f"runs/{NAME}/checkpoints/before/lora.safetensors",
        f"videos/ab/{NAME}.mp4\n",
        "adapters/mine/pytorch_lora_weights.safetensors",
        ".aside-notes.txt",
        "generated/look/notes.txt",
        "generated/look/videos/more/a.mp4",
    ],
)
def test_what_others_put_has_none(key: str) -> None:
    assert kind_of(key) == "other"


def test_the_name_of_a_record_is_its_digest() -> None:
    assert name_of(record_path("latents", NAME)) == NAME
