import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece
from transformers import T5TokenizerFast

from cogvx.data.tokens import TokenCounter
from cogvx.errors import ConfigError
from cogvx.model.nano.carried import carried_nano

CAPTIONS = [
    "",
    "a small red circle drifts leftwards over a black background",
    "Ünïcödé café, naïve — “quoted” … ½ ﬁne №5 Ａ fullwidth",
    "東京の夜、雨が降っている。",
    "emoji 🐕‍🦺 and 🏳️‍🌈",
    "punctuation!!! (brackets) [more] {curly} a/b\\c #tag @name 100%",
    "</s> in the middle, <pad> and <unk> too, <extra_id_0> and <extra_id_99>",
    "word " * 400,
    "averyveryverylongwordwithoutanyspaces" * 20,
    "tab\tand\nnewline",
    "\u200bzero width\u00a0and no-break",
]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base with a tokenizer in the form of the published ones: spiece.model alone."""
    folder = tmp_path_factory.mktemp("base") / "tokenizer"
    folder.mkdir()
    words = [word for caption in CAPTIONS for word in caption.split()]
    rng = random.Random(0)
    sentences = [" ".join(rng.choices(words, k=12)) for _ in range(300)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_prefix=str(folder / "spiece"),
        vocab_size=400,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        normalization_rule_name="nmt_nfkc",
        minloglevel=2,
        hard_vocab_limit=False,
        character_coverage=0.999,
    )
    (folder / "spiece.vocab").unlink()
    config = {"tokenizer_class": "T5Tokenizer", "model_max_length": 226, "extra_ids": 100}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder.parent


@pytest.mark.parametrize("base", ["nano", "published"])
def test_the_count_is_the_models_own(base: str, published: Path) -> None:
    folder = carried_nano() if base == "nano" else published
    tokenizer = T5TokenizerFast.from_pretrained(folder / "tokenizer", local_files_only=True)
    count = TokenCounter.of(folder)
    for caption in CAPTIONS:
        expected = tokenizer(caption, truncation=False, add_special_tokens=True).input_ids
        assert count(caption) == len(expected), caption


def test_counting_is_not_stopped_by_the_models_limit() -> None:
    assert TokenCounter.of(carried_nano())("circle " * 500) == 501


def test_a_base_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds neither tokenizer\.json nor spiece\.model"):
        TokenCounter.of(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "spiece.model"])
def test_a_damaged_tokenizer_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / name).write_bytes(b"{\xff torn")
    with pytest.raises(ConfigError, match=name):
        TokenCounter.of(tmp_path)


def test_counting_loads_no_gpu_stack(published: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from cogvx.data.tokens import TokenCounter;"
        f"TokenCounter.of(Path({str(published)!r}))('a cat');"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
