"""The page holds everything it shows, asks for nothing, and names what a person should look at."""

import re
import time
from html.parser import HTMLParser

import pytest

from cogvx.data.manifest import Manifest, Rejected
from cogvx.pages.dataset import Before, Dataset, render_dataset
from cogvx.pages.sheet import choose_pictures
from cogvx.pages.strips import Strip
from cogvx.recipe_sections import DatasetConfig, VideoConfig
from tests.pages.datasets import CONFIG, VIDEO, clip_of, manifest_of

EVIL = '<script>alert("x")</script> & <img src=http://example.com/x.png>'
PICTURE = Strip("data:image/png;base64,AAAA", tiny=True)


def dataset_of(
    manifest: Manifest,
    *before: Before,
    config: DatasetConfig = CONFIG,
    video: VideoConfig = VIDEO,
) -> Dataset:
    return Dataset("waves", manifest, config, video, 226, before)


def page_of(manifest: Manifest, *before: Before) -> str:
    return render_dataset(dataset_of(manifest, *before), {})


def text_of(page: str) -> str:
    """What a person reads, with single spaces."""

    class Text(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.words: list[str] = []

        def handle_data(self, data: str) -> None:
            self.words.append(data)

    parser = Text()
    parser.feed(page.partition("</style>")[2])
    return " ".join(" ".join(parser.words).split())


class Attributes(HTMLParser):
    """Every attribute of every element, as a browser would read them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, str, str]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs) -> None:
        self.found += [(tag, name, value or "") for name, value in attrs]


def test_the_page_asks_for_nothing_and_runs_nothing() -> None:
    manifest = manifest_of(clip_of(1, EVIL), clip_of(2), clip_of(3))
    page = render_dataset(dataset_of(manifest), {"00001.mp4": PICTURE})
    attributes = Attributes(page).found
    fetching = {"src", "href", "action", "poster", "data", "srcset", "background", "xlink:href"}
    sources = [value for _, name, value in attributes if name in fetching]
    assert PICTURE.picture in sources
    assert all(value.startswith(("data:", "#")) for value in sources)
    assert "<script" not in page
    assert "default-src 'none'" in page
    anchors = {value for _, name, value in attributes if name == "id"}
    assert {value[1:] for value in sources if value.startswith("#")} <= anchors


@pytest.mark.parametrize("caption", [EVIL, "夕暮れの海 נהר über 🌊", "{{ 7 * 7 }} {% raw %}"])
def test_a_caption_stays_what_it_is_wherever_it_stands(caption: str) -> None:
    clips = [clip_of(n, caption, tokens=300, key=f"{caption[:9]} {n}.mp4") for n in (1, 2, 3)]
    rejected = Rejected(key=caption, reason="static", detail=caption)
    other = [clip.model_copy(update={"caption": "a dog runs"}) for clip in clips[1:]]
    page = page_of(
        manifest_of(*clips, rejected=(rejected,)), Before("champion v1", manifest_of(*other))
    )
    assert text_of(page).count(caption) >= 4
    assert "<script" not in page
    assert "<img" not in page


def test_the_page_says_what_stands_out() -> None:
    clips = [
        clip_of(1, tokens=300),
        clip_of(2, "dog"),
        clip_of(3, "a dog runs left"),
        clip_of(4, "A dog runs left"),
    ]
    rejected = tuple(
        Rejected(key=f"x{number}.mp4", reason=reason, detail=f"it is {reason}")
        for number, reason in enumerate(["static", "static", "black"])
    )
    video = VIDEO.model_copy(update={"buckets": ("9x64x48",), "flip": True})
    dataset = dataset_of(manifest_of(*clips, rejected=rejected), video=video)
    text = text_of(render_dataset(dataset, {}))
    for sentence in (
        "3 clips were rejected: 2 static, 1 black.",
        "0 clips were held out, too few to tell luck from progress.",
        "1 caption is longer than the 226 tokens that the model reads.",
        "1 caption is only one or two words long.",
        "2 clips share 1 caption.",
        "3 clips were not mirrored, as the caption names a side.",
        "No clip suits the size 9x64x48.",
        "300, cut",
        "it is black",
    ):
        assert sentence in text


def test_a_quiet_dataset_is_called_quiet() -> None:
    text = text_of(page_of(manifest_of(*[clip_of(number) for number in range(11)])))
    assert "Nothing stands out" in text
    assert "Rejected" not in text


def test_the_page_says_what_changed_since_the_champion_and_the_last_manifest() -> None:
    clips = [clip_of(number) for number in range(8)]
    champion = manifest_of(clips[0], clip_of(1, "a boat"), clip_of(99))
    last = manifest_of(*clips[:7])
    page = page_of(
        manifest_of(*clips), Before("champion v3", champion), Before("last manifest", last)
    )
    text = text_of(page)
    since_champion, since_last = re.findall(r"Since the (.*?)(?= Since the | clips )", text)[:2]
    assert since_champion.startswith("champion v3 6 added 00002.mp4")
    assert "and 1 more" in since_champion
    assert "1 removed 00099.mp4" in since_champion
    assert '1 with another caption 00001.mp4: "a boat" became' in since_champion
    assert since_last.startswith("last manifest 1 added 00007.mp4")
    assert "clips 8 3 (+5) 7 (+1)" in text
    assert page.count('class="chip new"') == 6


def test_a_manifest_to_compare_with_is_shown_once() -> None:
    last = manifest_of(clip_of(1))
    befores = (Before("champion v3", last), Before("last manifest", last))
    text = text_of(page_of(manifest_of(clip_of(1), clip_of(2)), *befores))
    assert "Since the champion v3 and last manifest 1 added" in text
    assert "clips 2 1 (+1) windows" in text


@pytest.mark.parametrize(
    ("before", "sentence"),
    [
        (Before("champion", None, "There is none yet."), "Since the champion There is none yet."),
        (Before("last manifest", manifest_of(clip_of(1))), "Nothing changed"),
        (
            Before("last manifest", manifest_of(clip_of(1, start_frame=9))),
            "The same clips and captions, but other windows",
        ),
    ],
)
def test_no_difference_is_said_in_words(before: Before, sentence: str) -> None:
    assert sentence in text_of(page_of(manifest_of(clip_of(1)), before))


def test_measures_that_nobody_took_are_not_drawn() -> None:
    clip = clip_of(1)
    blind = clip.model_copy(
        update={"tokens": None, "facts": clip.facts.model_copy(update={"look": None})}
    )
    page = page_of(manifest_of(blind))
    assert "<svg" not in page
    assert "Nobody has looked at the clips" in page
    drawn = page_of(manifest_of(clip))
    assert drawn.count("<svg") == drawn.count('role="img" aria-label="') == 3
    for limit in ("model reads 226", "static below 0.1", "black below 6"):
        assert limit in drawn


def test_of_many_clips_the_new_the_still_and_the_dark_are_shown() -> None:
    clips = [clip_of(number) for number in range(500)]
    sections = choose_pictures(
        manifest_of(*clips), {clip.sha256 for clip in clips[450:]}, "champion v1"
    )
    titles = [section.title for section in sections]
    assert titles == ["New since champion v1", "Stillest", "Darkest", "Cross-section"]
    assert all(clip in clips[450:] for clip in sections[0].clips)
    assert clips[0] in sections[1].clips
    shown = [clip.key for section in sections for clip in section.clips]
    assert len(shown) == len(set(shown)) == 40
    assert sections[3].clips[-1].key > "00440.mp4"


def test_ten_thousand_clips_make_a_small_page_in_seconds() -> None:
    clips = tuple(clip_of(number) for number in range(10_000))
    rejected = tuple(
        Rejected(key=f"bad/{number}.mp4", reason="static", detail="it rests")
        for number in range(3000)
    )
    before = Before("champion v1", manifest_of(*clips[:9000]))
    dataset = dataset_of(manifest_of(*clips, rejected=rejected), before)
    began = time.monotonic()
    page = render_dataset(dataset, {})
    assert time.monotonic() - began < 20  # 2 s on an idle core
    assert len(page) < 200_000
    assert "and 2,960 more" in page


def test_the_same_dataset_gives_the_same_bytes_and_another_gets_another_name() -> None:
    manifest = manifest_of(clip_of(1), clip_of(2))
    assert page_of(manifest) == page_of(manifest)
    name = dataset_of(manifest).identity
    assert dataset_of(manifest, Before("champion", None)).identity == name
    rejected = manifest.model_copy(
        update={"rejected": (Rejected(key="x", reason="static", detail="it rests"),)}
    )
    strict = CONFIG.model_copy(update={"min_motion": 1.0})
    others = {dataset_of(rejected).identity, dataset_of(manifest, config=strict).identity}
    assert len({name, *others}) == 3
