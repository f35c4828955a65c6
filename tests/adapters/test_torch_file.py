"""Checkpoints of torch.save from anywhere: read to the letter, or refused, and never run."""

import argparse
import io
import os
import pickle
import random
import struct
import subprocess
import sys
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cogvx.adapters.base import Base, find_base
from cogvx.adapters.container import TensorInfo
from cogvx.adapters.convert import convert
from cogvx.adapters.formats import read_any
from cogvx.adapters.tensors import open_tensors
from cogvx.adapters.torch_file import open_torch, torch_dictionaries
from cogvx.errors import CogvxError, ConfigError, IntegrityError
from tests.adapters.foreign import Trained, kohya_state, matrices, peft_state, sat_state, written
from tests.fixtures.family import MEMBERS, BaseOf


@pytest.fixture
def base(base_of: BaseOf) -> Base:
    return find_base(str(base_of(MEMBERS[1])))


@pytest.fixture
def trained(base: Base) -> Trained:
    return Trained(matrices(base.facts), 1.0)


class Calls:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def opened(file: Path) -> list[str]:
    with open_tensors(file) as tensors:
        return list(tensors.infos)


def members(file: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(file: Path, content: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return file


def test_what_trainers_write_beside_the_weights_does_no_harm(
    base: Base, trained: Trained, tmp_path: Path
) -> None:
    state = OrderedDict(sat_state(trained))
    state._metadata = OrderedDict({"": {"version": 1}})
    checkpoint = {
        "module": state,
        "args": argparse.Namespace(save="x", split=[1, 2]),
        "random_rng_state": random.Random(0).getstate(),
        "np_rng_state": np.random.default_rng(0).bit_generator.random_raw(3),
        "legacy": ("MT19937", np.arange(5, dtype=np.uint32), 624),
        "scalar": np.float64(2.0),
        "torch_rng_state": torch.get_rng_state(),
        "param_shapes": [OrderedDict(a=torch.Size([2, 3]))],
        "sparse_tensor_module_names": {"a", "b"},
        "ds_config": {"bf16": {"enabled": True}, "lr": 1e-3, "steps": None},
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "turned": torch.ones(2, 3).T,
        "dtype": torch.bfloat16,
    }
    torch.save(checkpoint, tmp_path / "mp_rank_00_model_states.pt")
    found = read_any(tmp_path, alpha=None, facts=base.facts)
    assert found.form == "sat"
    expected = Trained(trained.matrices, 1 / found.rank).deltas()
    for module, delta in expected.items():
        pair = found.pairs[module]
        np.testing.assert_allclose(pair.b_or @ pair.a_ri, delta, rtol=1e-4, atol=1e-5)


def test_the_outline_is_what_torch_itself_loads(tmp_path: Path) -> None:
    kinds = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8)
    shared = torch.arange(24.0).reshape(4, 6)
    inner = {str(kind): torch.ones(3, 2).to(kind) for kind in kinds}
    state = {"a": {"b": inner}, "part": shared[1:3], "turned": shared.T, "one": torch.tensor(1.0)}
    torch.save(state, tmp_path / "x.pt")
    found = torch_dictionaries(tmp_path / "x.pt")
    assert found[()] == {
        "part": TensorInfo("F32", (2, 6)),
        "turned": TensorInfo("F32", (6, 4)),
        "one": TensorInfo("F32", ()),
    }
    names = ("F64", "F32", "F16", "BF16", "I64", "U8")
    assert [info.dtype for info in found["a", "b"].values()] == list(names)
    with open_torch(tmp_path / "x.pt", (), found[()]) as loaded:
        for name in found[()]:
            assert torch.equal(loaded.read(name), state[name])


@pytest.mark.parametrize(
    "call",
    [
        lambda mark: Calls(os.system, f"touch {mark}"),
        lambda mark: Calls(exec, f"open({str(mark)!r}, 'w')"),
        lambda mark: Calls(eval, f"open({str(mark)!r}, 'w')"),
        lambda mark: Calls(subprocess.check_call, ["touch", str(mark)]),
        lambda mark: Calls(Path.touch, Path(mark)),
        lambda mark: Calls(__import__, "antigravity"),
    ],
)
@pytest.mark.parametrize("inside", [True, False])
def test_code_in_a_checkpoint_is_refused_and_not_run(
    base: Base, trained: Trained, tmp_path: Path, call: Callable[[Path], Calls], inside: bool
) -> None:
    mark, file = tmp_path / "mark", tmp_path / "x.pt"
    state = sat_state(trained)
    torch.save({"module": {**state, "x": call(mark)} if inside else state, "y": call(mark)}, file)
    for read in (opened, lambda path: read_any(path, alpha=1.0, facts=base.facts)):
        with pytest.raises(
            IntegrityError, match="which weights do not need; nothing of it was run"
        ):
            read(file)
    assert not mark.exists()


def test_a_bare_pickle_is_refused_and_not_run(base: Base, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for name in ("x.pt", "x.ckpt", "adapter_model.bin", "x.safetensors"):
        (tmp_path / name).write_bytes(pickle.dumps(Calls(os.system, f"touch {mark}"), protocol=2))
        with pytest.raises(IntegrityError, match=r"bare pickle|not a safetensors file"):
            convert(tmp_path / name, tmp_path / "out", base=base)
    torch.save({"a": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(IntegrityError, match="bare pickle"):
        opened(tmp_path / "old.pt")
    assert not mark.exists()


def program(*lines: bytes) -> bytes:
    return b"\x80\x02" + b"".join(lines) + b"."


DOUBLED = b"c_codecs\nencode\n" + b"X\x04\x00\x00\x00aaaa" + b"X\x03\x00\x00\x00hex" + b"\x86R"


@pytest.mark.parametrize(
    ("pickled", "said"),
    [
        (program(b"c__builtin__\nbytearray\n", b"J\xff\xff\xff\x7f", b"\x85R"), "bytearray"),
        (program(b"ctorch\nTensor\n", b"J\xff\xff\xff\x7f", b"\x85R"), "torch.Tensor"),
        (program(DOUBLED), "damaged"),
        (program(b"(" * 10), "without an adapter in it"),
        (program(b"0"), "uses POP, which torch.save does not write"),
        (program(b"\x8c\x02os\x8c\x06system\x93"), "which torch.save does not write"),
        (program(b"h\x07"), "damaged"),
        (b"\x80\x04N.", "uses PROTO"),
        (b"\x80\x02", "damaged"),
        (b"", "damaged"),
        (program(b"X\xff\xff\xff\x7fabc"), "damaged"),
        (program(b"}", b"N" + b"\x85" * 100_000, b"Ns"), "damaged"),
        (program(b"]" * 500_001), "more steps than a checkpoint needs"),
        (program(b"cc\x1b[31mred\nx\n"), "names something, which weights do not need"),
    ],
)
def test_pickles_that_ask_for_too_much_are_refused(
    tmp_path: Path, pickled: bytes, said: str
) -> None:
    file = zipped(tmp_path / "x.pt", {"x/data.pkl": pickled, "x/version": b"3\n"})
    with pytest.raises(IntegrityError, match=said):
        opened(file)


def tensor_program(numbers: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """{"w": a tensor over a storage that claims to hold so many numbers}."""

    def number(value: int) -> bytes:
        data = value.to_bytes(9, "little", signed=True)
        return b"\x8a" + bytes([len(data)]) + data

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
    sizes = [b"(" + b"".join(map(number, values)) + b"t" for values in (shape, stride)]
    name = "transformer.transformer_blocks.0.attn1.to_q.lora_A.weight"
    view = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(numbers) + b"tQ" + number(0)
    return program(b"}", text(name), view, *sizes, b"\x89}", b"tR", b"s")


@pytest.mark.parametrize(
    ("numbers", "shape", "stride", "said"),
    [
        (1 << 40, (1 << 40,), (1,), "not of the lengths that its pickle says"),
        (4, (1 << 40, 1), (1, 1), "reach beyond their numbers"),
        (4, (2, 3), (3, 1), "reach beyond their numbers"),
        (4, (1 << 40, 4), (0, 1), "without an adapter in it"),
        (4, (-1, 4), (0, 1), "damaged"),
        (4, (1,) * 100, (1,) * 100, "damaged"),
        (4, (2, 2), (1,), "damaged"),
    ],
)
def test_tensors_that_lie_about_their_size_are_refused(
    tmp_path: Path, numbers: int, shape: tuple[int, ...], stride: tuple[int, ...], said: str
) -> None:
    content = {"x/data.pkl": tensor_program(numbers, shape, stride), "x/data/0": bytes(16)}
    with pytest.raises(IntegrityError, match=said):
        opened(zipped(tmp_path / "x.pt", content))


def test_a_zip_bomb_is_refused(trained: Trained, tmp_path: Path) -> None:
    torch.save({"module": sat_state(trained)}, tmp_path / "x.pt")
    content = members(tmp_path / "x.pt")
    bomb = zipped(tmp_path / "bomb.pt", content, zipfile.ZIP_DEFLATED)
    with pytest.raises(IntegrityError, match="compressed or locked, which torch never writes"):
        opened(bomb)
    pickled = {"x/data.pkl": b"\x80\x02" + b"N0" * (9 << 20) + b"N."}
    with pytest.raises(IntegrityError, match="its pickle is longer than a checkpoint's"):
        opened(zipped(tmp_path / "long.pt", pickled))
    overlapping = bytearray((tmp_path / "x.pt").read_bytes())
    size = len(overlapping)
    place = overlapping.rfind(b"PK\x01\x02")
    overlapping[place + 20 : place + 28] = struct.pack("<II", 2 * size, 2 * size)
    (tmp_path / "overlap.pt").write_bytes(overlapping)
    with pytest.raises(IntegrityError, match=r"refused|damaged"):
        opened(tmp_path / "overlap.pt")


def test_a_directory_that_claims_gigabytes_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "x.pt"
    with file.open("wb") as handle:
        handle.write(b"PK\x03\x04")
        handle.truncate(8 << 30)
        handle.seek(0, io.SEEK_END)
        claimed = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 1, 1, 0xFFFFFFF0, 0, 0)
        handle.write(claimed)
    with pytest.raises(IntegrityError, match="directory is larger than a checkpoint's"):
        opened(file)


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_a_file_that_was_cut_short_is_refused(
    base: Base, trained: Trained, tmp_path: Path, kept: float
) -> None:
    torch.save({"module": sat_state(trained)}, tmp_path / "whole.pt")
    whole = {
        "x.pt": (tmp_path / "whole.pt").read_bytes(),
        "x.safetensors": written(tmp_path, kohya_state(trained, alpha=1.0)).read_bytes(),
    }
    for name, data in whole.items():
        (tmp_path / name).write_bytes(data[: int(kept * len(data))])
        with pytest.raises(IntegrityError, match=r"cut short|not a safetensors file|damaged"):
            read_any(tmp_path / name, alpha=1.0, facts=base.facts)


def test_members_that_stand_twice_or_elsewhere_are_refused(
    trained: Trained, tmp_path: Path
) -> None:
    torch.save({"module": sat_state(trained)}, tmp_path / "x.pt")
    content = members(tmp_path / "x.pt")
    top = next(iter(content)).split("/")[0]
    file = zipped(tmp_path / "two.pt", {**content, "other/data.pkl": b"\x80\x02N."})
    with pytest.raises(IntegrityError, match="no checkpoint of torch"):
        opened(file)
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as archive:
        warnings.simplefilter("ignore")  # Duplicate name
        for name in (*content, f"{top}/data.pkl"):
            archive.writestr(name, content[name])
    with pytest.raises(IntegrityError, match="holds a member twice"):
        opened(file)
    file = zipped(tmp_path / "big.pt", {**content, f"{top}/byteorder": b"big"})
    with pytest.raises(IntegrityError, match="another byte order"):
        opened(file)
    file = zipped(tmp_path / "path.pt", {"../../data.pkl": b"\x80\x02N."})
    with pytest.raises(IntegrityError, match="no checkpoint of torch"):
        opened(file)
    (tmp_path / "comment.pt").write_bytes((tmp_path / "x.pt").read_bytes() + b"tail")
    with pytest.raises(IntegrityError, match="cut short"):
        opened(tmp_path / "comment.pt")


def test_names_like_paths_are_only_names_and_endless_ones_are_refused(
    base: Base, tmp_path: Path
) -> None:
    trained = Trained(matrices(base.facts), 1.0)
    state = sat_state(trained)
    torch.save({**state, "../../etc/passwd": torch.ones(1)}, tmp_path / "x.pt")
    found = read_any(tmp_path / "x.pt", alpha=None, facts=base.facts)
    assert len(found.pairs) == len(trained.matrices)
    torch.save({**state, "../../x.matrix_A.y": torch.ones(1)}, tmp_path / "x.pt")
    with pytest.raises(
        ConfigError, match=r"1 tensors belong to no module: \.\./\.\./x\.matrix_A\.y"
    ):
        read_any(tmp_path / "x.pt", alpha=None, facts=base.facts)
    for name in ("matrix_A.\x1b[31m", "z" * 9999):
        torch.save({**state, name: torch.ones(1)}, tmp_path / "x.pt")
        with pytest.raises(IntegrityError, match="a name that is too long or not printable"):
            read_any(tmp_path / "x.pt", alpha=None, facts=base.facts)


@pytest.mark.timeout(60)
def test_what_is_no_file_is_refused_without_waiting(base: Base, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling.pt").symlink_to(tmp_path / "nothing")
    (tmp_path / "empty.pt").touch()
    for name in ("pipe.pt", "link", "loop", "dangling.pt", "empty.pt"):
        with pytest.raises(CogvxError, match=str(tmp_path)):
            read_any(tmp_path / name, alpha=1.0, facts=base.facts)
    with pytest.raises(IntegrityError, match="is not a file"):
        read_any(Path("/dev/zero"), alpha=1.0, facts=base.facts)


def test_matrices_of_other_numbers_are_refused(
    base: Base, trained: Trained, tmp_path: Path
) -> None:
    torch.save(sat_state(Trained(matrices(base.facts, dtype=torch.int32), 1.0)), tmp_path / "x.pt")
    with pytest.raises(ConfigError, match="is of I32, which no adapter is"):
        read_any(tmp_path / "x.pt", alpha=None, facts=base.facts)
    state = {name: tensor.bool() for name, tensor in peft_state(trained).items()}
    with pytest.raises(ConfigError, match="is of BOOL, which no adapter is"):
        read_any(written(tmp_path, state), alpha=1.0, facts=base.facts)


LARGE = """
import resource, sys
from pathlib import Path
from cogvx.adapters.formats import read_any
from cogvx.variants import read_facts

facts = read_facts(Path(sys.argv[1]))
read_any(Path(sys.argv[3]), alpha=None, facts=facts)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = read_any(Path(sys.argv[2]), alpha=None, facts=facts)
print(len(found.pairs), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def sparse_checkpoint(small: Path, large: Path, *, numbers: int, grown: int) -> Path:
    """The checkpoint with its storage of `numbers` float32 grown, as a hole in the file."""
    content = members(small)
    (key,) = [name for name, data in content.items() if len(data) == 4 * numbers]
    pickled = next(name for name in content if name.endswith("/data.pkl"))
    old, new = b"J" + struct.pack("<i", numbers), b"J" + struct.pack("<i", grown)
    assert content[pickled].count(old) == 2
    content[pickled] = content[pickled].replace(old, new)
    del content[key]
    zipped(large, content)
    with zipfile.ZipFile(large) as archive:
        directory_at, size = archive.start_dir, 4 * grown
    data = large.read_bytes()
    directory, entries = data[directory_at:-22], len(content)
    name, sizes = key.encode(), struct.pack("<QQ", size, size)
    extra = struct.pack("<HH", 1, len(sizes)) + sizes
    fields = (0, 0, 0, 0, 0, 0xFFFFFFFF, 0xFFFFFFFF, len(name), len(extra))
    local = b"PK\x03\x04" + struct.pack("<HHHHHIIIHH", 45, *fields) + name + extra
    entry = b"PK\x01\x02" + struct.pack("<HHHHHHIIIHHHHHII", 45, 45, *fields, 0, 0, 0, 0, 0)
    entry = entry[:-4] + struct.pack("<I", directory_at) + name + extra
    with large.open("r+b") as file:
        file.seek(directory_at)
        file.write(local)
        start = file.tell() + size
        file.seek(start)
        file.write(directory + entry)
        length = len(directory) + len(entry)
        file.write(
            b"PK\x06\x06"
            + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, *[entries + 1] * 2, length, start)
        )
        file.write(b"PK\x06\x07" + struct.pack("<IQI", 0, start + length, 1))
        file.write(
            b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 0xFFFF, 0xFFFF, *[0xFFFFFFFF] * 2, 0)
        )
    return large


def test_of_a_large_checkpoint_only_the_adapter_is_read(
    base: Base, base_of: BaseOf, trained: Trained, tmp_path: Path
) -> None:
    numbers, grown = 100_003, 2_000_000_011  # 8 GB
    others = {"conditioner.t5": torch.ones(numbers), **sat_state(trained)}
    torch.save({"module": others}, tmp_path / "small.pt")
    large = sparse_checkpoint(
        tmp_path / "small.pt", tmp_path / "large.pt", numbers=numbers, grown=grown
    )
    assert large.stat().st_size > 8_000_000_000
    command = [sys.executable, "-c", LARGE, base_of(MEMBERS[1]), large, tmp_path / "small.pt"]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    pairs, kilobytes = map(int, told.stdout.split())
    assert pairs == len(trained.matrices)
    assert kilobytes < 64 << 10
