"""What people write is read as they meant it, or refused with everything that is wrong."""

import json
import math

import pytest

from cogvx.errors import ConfigError
from cogvx.inference.job import (
    AskedAdapter,
    GenerateJob,
    adapter_problems,
    parse_adapter,
)
from cogvx.inference.prompt_file import parse_prompts


@pytest.mark.parametrize(
    ("text", "ref", "weight"),
    [
        ("style.safetensors", "style.safetensors", 1.0),
        ("style.safetensors:0.6", "style.safetensors", 0.6),
        ("style.safetensors:-1", "style.safetensors", -1.0),
        ("style.safetensors:1e-1", "style.safetensors", 0.1),
        ("models:/style@champion", "models:/style@champion", 1.0),
        ("models:/style@champion:0.6", "models:/style@champion", 0.6),
        ("models:/style/3:0.6", "models:/style/3", 0.6),
        ("models:/style/3", "models:/style/3", 1.0),
        ("C:/style.safetensors", "C:/style.safetensors", 1.0),
        ("C:/style.safetensors:2", "C:/style.safetensors", 2.0),
        ("odd:name", "odd:name", 1.0),
        ("odd:name:0", "odd:name", 0.0),
        ("style:", "style:", 1.0),
    ],
)
def test_a_weight_stands_after_the_last_colon_if_it_is_a_number(
    text: str, ref: str, weight: float
) -> None:
    found = parse_adapter(text)
    assert (found.ref, found.weight) == (ref, weight)


def test_everything_wrong_with_adapters_and_scales_is_said_at_once() -> None:
    adapters = tuple(
        parse_adapter(text)
        for text in ("models:/style/x", "a:nan", "b:inf", "c", "c:0.5", "models:/x/1")
    )
    said = [str(problem) for problem in adapter_problems(adapters, (0.5, math.nan, 0.5))]
    assert len(said) == 6
    for part in (
        "adapter models:/style/x does not name a version",
        "adapter a has weight nan",
        "adapter b has weight inf",
        "scale = nan is not finite",
        "adapter c is given twice",
        "has a scale twice",
    ):
        assert any(part in sentence for sentence in said), part
    assert "none is given" in str(adapter_problems((), (0.5,))[0])
    assert adapter_problems(adapters[-1:], (0.5, 1.0)) == []


def test_a_text_file_has_a_prompt_on_each_line() -> None:
    lines = parse_prompts("\ufeffa circle\r\n\n  ein Kreis, groß  \n# one\n".encode(), "p.txt")
    assert [line.prompt for line in lines] == ["a circle", "ein Kreis, groß", "# one"]
    assert all(line.seed is None and line.size is None for line in lines)


def test_a_json_file_says_more_of_some_lines() -> None:
    rows = [
        {"prompt": "a"},
        {
            "prompt": "b",
            "seed": 3,
            "size": "9x48x64",
            "image": "b.png",
            "name": "b-1",
            "negative_prompt": "",
        },
    ]
    text = "\n".join(json.dumps(row) for row in rows)
    first, second = parse_prompts(text.encode(), "prompts.JSONL")
    assert first.prompt == "a"
    assert second.model_dump() == rows[1]


def test_every_problem_of_a_file_is_told_with_its_line() -> None:
    rows = [
        '{"prompt": "fine"}',
        "",
        "{",
        '["a"]',
        '{"prompt": ""}',
        '{"prompt": "  "}',
        '{"seed": 1}',
        '{"prompt": "a", "seed": "1"}',
        '{"prompt": "a", "seed": -1}',
        '{"prompt": "a", "size": "49x480"}',
        '{"prompt": "a", "sede": 1}',
        '{"prompt": "a", "name": "../b"}',
    ]
    with pytest.raises(ConfigError) as caught:
        parse_prompts("\n".join(rows).encode(), "p.jsonl")
    said = str(caught.value).splitlines()[1:]
    assert len(said) == 10
    for number, part in (
        (3, "is not JSON"),
        (4, "is no JSON object"),
        (5, "is empty"),
        (6, "is empty"),
        (7, "line 7.prompt is missing"),
        (8, 'seed = "1" is of the wrong kind'),
        (9, "seed = -1 is too small"),
        (10, 'size = "49x480" is not frames x height x width'),
        (11, 'did you mean "seed"?'),
        (12, 'name = "../b" is not a name'),
    ):
        assert any(f"line {number}" in line and part in line for line in said), (number, part)


@pytest.mark.parametrize(
    ("data", "sentence"), [(b"\n \n", "holds no prompt"), (b"\xff\xfe", "is not UTF-8")]
)
def test_a_file_without_prompts_is_a_sentence(data: bytes, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        parse_prompts(data, "p.txt")


def test_a_job_survives_json() -> None:
    job = GenerateJob(
        name="look",
        adapters=(AskedAdapter(ref="a", weight=0.5),),
        scales=(0.0, 1.0),
        prompts=parse_prompts(b"a\nb", "p.txt"),
        guidance=6,
    )
    assert GenerateJob.model_validate_json(job.model_dump_json()) == job
    assert GenerateJob.model_validate(json.loads(job.model_dump_json())) == job
