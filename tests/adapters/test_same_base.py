"""Whether a card and a base, or two cards, speak of one base, also where bytes are unknown."""

from pathlib import Path

import pytest

from cogvx.adapters.same_base import (
    NamedBase,
    Verdict,
    base_doubt,
    base_in_folder,
    base_problem,
    compare,
)
from cogvx.variants import PUBLISHED
from tests.adapters.toys import toy_card

HUB, OLD, IMAGE = "zai-org/CogVideoX-5b", "THUDM/CogVideoX-5b", "zai-org/CogVideoX-5b-I2V"
ONE, TWO = "1" * 40, "2" * 40
A, B = "a" * 64, "b" * 64
FACTS = PUBLISHED["CogVideoX-5b"]


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        (NamedBase("x", None, A), NamedBase("y", None, A), "same"),
        (NamedBase(HUB, None, A), NamedBase(HUB, None, B), "other"),
        (NamedBase(HUB), NamedBase(HUB, None, B), "unproven"),
        (NamedBase(HUB), NamedBase(OLD), "unproven"),
        (NamedBase(HUB), NamedBase(IMAGE), "other"),
        (NamedBase(IMAGE), NamedBase("/models/5b", None, A, FACTS), "other"),
        (NamedBase(HUB), NamedBase("/models/5b", None, A, FACTS), "unproven"),
        (NamedBase(HUB), NamedBase("me/tuned", None, A, FACTS), "unproven"),
        (NamedBase("me/tuned"), NamedBase("you/tuned", None, A, FACTS), "other"),
        (NamedBase("me/tuned"), NamedBase("/models/5b", None, A, FACTS), "unproven"),
        (NamedBase("/there/part"), NamedBase("/models/5b", None, A, FACTS), "other"),
        (NamedBase("/models/5b/"), NamedBase("/models/5b", None, A, FACTS), "unproven"),
        (NamedBase("/models/5b", None, A), NamedBase(HUB, None, None, FACTS), "unproven"),
        (NamedBase(HUB, ONE), NamedBase(OLD, ONE, A), "same"),
        (NamedBase(HUB, ONE), NamedBase(HUB, TWO, A), "other"),
        (NamedBase(HUB, "main"), NamedBase(HUB, TWO, A), "unproven"),
        (NamedBase(HUB, "main"), NamedBase(HUB, "dev"), "other"),
        (NamedBase(HUB, ONE), NamedBase(HUB), "unproven"),
        (NamedBase(HUB), NamedBase(None, None, A, FACTS), "unproven"),
        (NamedBase(IMAGE), NamedBase(None, None, A, FACTS), "other"),
    ],
)
def test_bytes_decide_and_else_what_is_known(
    first: NamedBase, second: NamedBase, verdict: Verdict
) -> None:
    assert compare(first, second) == compare(second, first) == verdict


def test_both_are_named_with_what_a_person_can_do() -> None:
    card = toy_card(base_path=IMAGE, base_fingerprint=None)
    said = base_problem(card, NamedBase("/models/5b", None, A, FACTS))
    assert said is not None
    for part in (f"{IMAGE} (bytes unknown)", "/models/5b (aaaaaaaaaaaa, a CogVideoX-5b)"):
        assert part in said
    same_kind = toy_card(base_path=HUB, base_fingerprint=None)
    assert base_problem(same_kind, NamedBase("/models/x", None, A, FACTS)) is None
    doubt = base_doubt(same_kind, NamedBase("/models/x", None, A, FACTS))
    assert doubt is not None
    assert "nothing proves that /models/x" in doubt


def test_what_was_downloaded_goes_by_its_hub_id_and_commit() -> None:
    folder = Path("/cache/models--zai-org--CogVideoX-5b/snapshots") / ONE
    found = base_in_folder(folder, FACTS, A)
    assert (found.path, found.revision) == (HUB, ONE)
    assert base_in_folder(Path("/models/x"), FACTS, A).path == "/models/x"
