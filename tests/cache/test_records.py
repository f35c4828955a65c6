"""A record is read back bit for bit, or refused."""

import dataclasses
import json

import pytest
import torch
from hypothesis import given, settings, strategies
from safetensors.torch import load, save

from cogvx.cache.keys import LatentKey, PromptKey
from cogvx.cache.records import pack_latents, pack_prompt, unpack
from cogvx.digest import digest
from cogvx.errors import IntegrityError
from cogvx.shapes import VideoSize

LATENT_KEY = LatentKey(
    source_sha256="5" * 64,
    start_frame=0,
    fps=8,
    size=VideoSize(9, 16, 16),
    crop="centre",
    flip=False,
    vae_fingerprint="a" * 64,
    dtype="bfloat16",
    tiling=False,
)
PROMPT_KEY = PromptKey('a red "circle", 圆', "b" * 64, max_length=4, dtype="float32", batch=8)
NAME = PROMPT_KEY.digest
SMALL = pack_prompt(PROMPT_KEY, torch.tensor([[0.0, -0.0, 1.5]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_record_reads_back_bit_for_bit(dtype: torch.dtype) -> None:
    noise = torch.randn(8, 3, 4, 5, generator=torch.manual_seed(0))
    special = torch.tensor(
        [0.0, -0.0, torch.finfo(dtype).smallest_normal / 4, torch.finfo(dtype).max]
    )
    moments_cfhw = torch.cat([noise.flatten()[4:], special]).reshape(8, 3, 4, 5).to(dtype)
    back = unpack(pack_latents(LATENT_KEY, moments_cfhw), LATENT_KEY.digest)
    assert (back.dtype, back.shape) == (dtype, moments_cfhw.shape)
    assert torch.equal(back.view(torch.uint8), moments_cfhw.view(torch.uint8))


def test_a_strided_tensor_is_stored_as_its_values() -> None:
    moments_cfhw = torch.arange(24.0).reshape(1, 2, 3, 4).permute(3, 2, 1, 0)
    assert torch.equal(
        unpack(pack_latents(LATENT_KEY, moments_cfhw), LATENT_KEY.digest), moments_cfhw
    )


def test_equal_records_are_equal_bytes() -> None:
    moments_cfhw = torch.ones(2, 1, 1, 1)
    assert len({pack_latents(LATENT_KEY, moments_cfhw) for _ in range(20)}) == 1


def test_a_record_says_what_it_holds_to_anyone_who_reads_safetensors() -> None:
    data = pack_latents(LATENT_KEY, torch.ones(2, 3, 2, 2, dtype=torch.bfloat16))
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    label = json.loads(header["__metadata__"]["record"])
    assert list(load(data)) == ["moments_cfhw"]
    assert label["key"] == LATENT_KEY.digest
    assert label["axes"] == "2*channels, frames, height, width"
    assert (label["shape"], label["dtype"]) == ([2, 3, 2, 2], "bfloat16")
    assert label["made_from"] == dataclasses.asdict(LATENT_KEY)
    assert digest({"kind": "latents", **label["made_from"]}) == label["key"]


def test_one_flipped_bit_anywhere_is_refused() -> None:
    accepted = []
    for bit in range(8 * len(SMALL)):
        altered = bytearray(SMALL)
        altered[bit // 8] ^= 1 << bit % 8
        try:
            unpack(bytes(altered), NAME)
        except IntegrityError:
            continue
        accepted.append(bit)
    assert accepted == []


def test_a_record_that_ends_anywhere_early_or_late_is_refused() -> None:
    for length in range(len(SMALL)):
        with pytest.raises(IntegrityError):
            unpack(SMALL[:length], NAME)
    with pytest.raises(IntegrityError):
        unpack(SMALL + b"\0", NAME)


@settings(max_examples=300)
@given(strategies.binary(max_size=200), strategies.integers(0, 2**64 - 1))
def test_foreign_bytes_are_refused_and_nothing_else_happens(data: bytes, header_bytes: int) -> None:
    for foreign in (data, header_bytes.to_bytes(8, "little") + data, SMALL[: len(data)] + data):
        with pytest.raises(IntegrityError):
            unpack(foreign, NAME)


@pytest.mark.parametrize("claim", [len(SMALL), 10**9, 2**63, 2**64 - 1])
def test_a_header_that_claims_to_be_longer_than_the_file_is_refused(claim: int) -> None:
    with pytest.raises(IntegrityError, match="damaged"):
        unpack(claim.to_bytes(8, "little") + SMALL[8:], NAME)


@pytest.mark.parametrize(
    "label",
    [
        None,
        {},
        {"record": "no JSON"},
        {"record": "[]"},
        {"record": "null"},
        {"record": "[" * 100_000},
        {"record": json.dumps({"key": NAME})},
        {"record": json.dumps({"key": NAME, "sha256": None})},
        {"record": json.dumps({"key": NAME, "sha256": "0" * 64})},
        {"record": '{"key": "' + NAME + '", "sha256": "0", "x": NaN}'},
        {"record": '{"key": "' + NAME + '", "sha256": "0", "x": "\\ud800"}'},
    ],
)
def test_a_valid_file_with_a_wrong_label_is_refused(label: dict[str, str] | None) -> None:
    with pytest.raises(IntegrityError):
        unpack(save({"embedding_sd": torch.ones(1, 3)}, label), NAME)


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"embedding_sd": torch.tensor(1.0)},
        {"embedding_sd": torch.ones(0, 3)},
        {"embedding_sd": torch.ones(1, 3), "other": torch.ones(1)},
        {"embedding_sd": torch.ones(1, 3, dtype=torch.bool)},
    ],
)
def test_other_tensors_under_a_true_label_are_refused(tensors: dict[str, torch.Tensor]) -> None:
    header = json.loads(SMALL[8 : 8 + int.from_bytes(SMALL[:8], "little")])
    with pytest.raises(IntegrityError):
        unpack(save(tensors, header["__metadata__"]), NAME)


def test_a_whole_record_under_another_name_is_refused() -> None:
    other = dataclasses.replace(PROMPT_KEY, text="another").digest
    with pytest.raises(IntegrityError, match=f"it says that it is {NAME}"):
        unpack(SMALL, other)
