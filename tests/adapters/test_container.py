"""The container: the format that the library writes, and headers that lie."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save, save_file

from cogvx.adapters.card import CARD_KEY, read_card
from cogvx.adapters.container import TensorInfo, read_header, with_metadata
from cogvx.errors import IntegrityError

TENSORS = {"b": torch.arange(3.0), "a": torch.ones(2, 5, dtype=torch.float16)}
METADATA = {"z": "1", "a": "ü", "format": "pt"}


def test_the_library_reads_what_we_write(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(with_metadata(save(TENSORS), METADATA))
    with safe_open(path, framework="pt") as opened:
        assert opened.metadata() == METADATA
        assert set(opened.keys()) == set(TENSORS)
        assert all(torch.equal(opened.get_tensor(name), TENSORS[name]) for name in TENSORS)


def test_we_read_what_the_library_writes(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(TENSORS, path, metadata=METADATA)
    header = read_header(path)
    assert header.tensors == {"b": TensorInfo("F32", (3,)), "a": TensorInfo("F16", (2, 5))}
    assert header.metadata == METADATA


def test_tensors_start_at_a_multiple_of_eight(tmp_path: Path) -> None:
    for length in range(9):
        packed = with_metadata(save(TENSORS), {"pad": "x" * length})
        assert int.from_bytes(packed[:8], "little") % 8 == 0


def header_bytes(header: object, body: bytes = b"", length: int | None = None) -> bytes:
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    return (len(text) if length is None else length).to_bytes(8, "little") + text + body


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"1234",
        b"PK\x03\x04 a zip file, such as torch.save writes",
        header_bytes({}, length=1 << 30),
        header_bytes(b"[" * 100_000),
        header_bytes(b"\xff\xfe"),
        header_bytes([1, 2]),
        header_bytes({"a": 1}),
        header_bytes({"a": {}}),
        header_bytes({"a": F32}, bytes(4)),
        header_bytes({"a": F32}, bytes(16)),
        header_bytes({"a": {**F32, "shape": [1 << 40]}}, bytes(8)),
        header_bytes({"a": {**F32, "data_offsets": [8, 0]}}, bytes(8)),
        header_bytes({"a": {**F32, "shape": ["many"]}}, bytes(8)),
        header_bytes({"a": {**F32, "shape": [-1, -2]}}, bytes(8)),
        header_bytes({"a": {**F32, "shape": [2.0]}}, bytes(8)),
        header_bytes({"a": {**F32, "data_offsets": [False, 8]}}, bytes(8)),
        header_bytes({"a": {**F32, "data_offsets": [-8, 0]}}, bytes(8)),
        header_bytes({"a": {**F32, "dtype": "Q99"}}, bytes(8)),
        header_bytes({"a": {**F32, "dtype": []}}, bytes(8)),
        header_bytes({"a": F32, "b": F32}, bytes(16)),
        header_bytes({"a": F32, "b": {**F32, "data_offsets": [12, 20]}}, bytes(20)),
        header_bytes({"\x1b[2J": F32}, bytes(8)),
        header_bytes({"a" * 201: F32}, bytes(8)),
        header_bytes(b'{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8)),
        header_bytes(b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"a":{}}'),
        header_bytes(b'{"__metadata__":{"a":"1"},"__metadata__":{"a":"2"}}'),
        header_bytes(b'{"__metadata__":{"a":"1","a":"2"}}'),
        header_bytes({"__metadata__": {"a": 1}}),
        header_bytes({"__metadata__": ["a"]}),
        header_bytes({"__metadata__": {"a": {"b": "c"}}}),
    ],
)
def test_a_file_that_lies_is_refused_in_a_sentence(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="not a safetensors file"):
        read_header(path)


def test_an_absent_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="cannot be read: No such file"):
        read_header(tmp_path / "absent.safetensors")


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.safetensors"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path, Path("/dev/zero")):
        with pytest.raises(IntegrityError, match="is not a file"):
            read_header(path)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8, torch.float8_e4m3fn])
def test_every_type_that_programs_write_is_known(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(3, dtype=dtype), "b": torch.zeros((), dtype=dtype)}, path)
    assert [info.shape for info in read_header(path).tensors.values()] in ([(3,), ()], [(), (3,)])


@pytest.mark.parametrize("card", ["{}", "no json", '{"schema_version": 2}'])
def test_a_damaged_card_is_refused(tmp_path: Path, card: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(with_metadata(save(TENSORS), {CARD_KEY: card}))
    with pytest.raises(IntegrityError, match="card under cogvx_card is damaged"):
        read_card(path)


def test_reading_a_card_loads_no_torch() -> None:
    code = "import sys, cogvx.adapters.card; print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE)
    assert told.stdout.strip() == b"False"
