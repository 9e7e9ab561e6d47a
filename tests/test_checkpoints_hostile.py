"""Files from strangers: refused in one sentence, nothing in them run, nothing left behind."""

import argparse
import contextlib
import gzip
import io
import json
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attacks.errors import UserError
from models import checkpoints
from models.convert import convert
from models.inert import Call, Machine, MalformedError, Name, Pairs
from models.torchfile import kind_of


class Touch:
    """Unpickling this writes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.stack = nn.Sequential(nn.Linear(3, 2), nn.ReLU())


def weights():
    return OrderedDict({"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)})


def sentence(error):
    message = str(error.value)
    assert "\n" not in message and len(message) < 400, message
    return message


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("place", ["opt", "state_dict"])
def test_malicious_reduce_is_named_and_not_run(tmp_path, new_format, place):
    marker = tmp_path / "marker"
    file = tmp_path / "a.pth"
    content = {"state_dict": weights(), place: Touch(marker)}
    torch.save(content, file, _use_new_zipfile_serialization=new_format)
    with pytest.raises(UserError) as error:
        checkpoints.read(file)
    assert "io.open" in sentence(error) and "robustdml convert" in sentence(error)
    assert not marker.exists()
    if place == "opt":
        assert convert(file, tmp_path / "b.safetensors").left == ("io.open",)
    else:
        with pytest.raises(UserError, match="no weights found"):
            convert(file, tmp_path / "b.safetensors")
    assert not marker.exists()
    torch.load(file, weights_only=False)["state_dict"]  # the trap is live
    assert marker.exists()


def test_a_bare_malicious_pickle(tmp_path):
    marker = tmp_path / "marker"
    (tmp_path / "a.pt").write_bytes(pickle.dumps(Touch(marker)))
    with pytest.raises(UserError, match=r"io\.open"):
        checkpoints.read(tmp_path / "a.pt")
    with pytest.raises(UserError, match="no dictionary of weights"):
        convert(tmp_path / "a.pt", tmp_path / "b.safetensors")
    assert not marker.exists()


def test_namespace_is_allowed_and_other_classes_are_named(tmp_path):
    torch.save({"state_dict": weights(), "opt": argparse.Namespace(lr=1)}, tmp_path / "a.pth")
    assert set(checkpoints.read(tmp_path / "a.pth").tensors) == {"a.weight", "a.bias"}
    assert argparse.Namespace not in torch.serialization.get_safe_globals()
    torch.save({"state_dict": weights(), "where": Path("/x")}, tmp_path / "b.pth")
    with pytest.raises(UserError, match=r"asks for pathlib\.\w*Path, which could run code"):
        checkpoints.read(tmp_path / "b.pth")


def exported(path):
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()).eval()
    program = torch.export.export(module, (torch.rand(2, 1, 4, 4),))
    torch.export.save(program, path)


def plant(path, marker):
    """Replace the sample inputs of a .pt2 by a pickle that writes `marker`."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    (target,) = (name for name in entries if name.endswith("sample_inputs/model.pt"))
    planted = io.BytesIO()
    torch.save(Touch(marker), planted)
    entries[target] = planted.getvalue()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def test_pt2_with_a_planted_pickle_is_refused_and_nothing_runs(tmp_path):
    marker, file = tmp_path / "marker", tmp_path / "a.pt2"
    exported(file)
    plant(file, marker)
    assert checkpoints.runs_code(file)
    for renamed in (file, file.rename(tmp_path / "a.safetensors")):
        with pytest.raises(UserError, match="--trust-code"):
            checkpoints.read(renamed if renamed.exists() else tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="pt2 file, not a checkpoint"):
        convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert not marker.exists()
    with contextlib.suppress(Exception):  # it may fail after the harm is done
        torch.export.load(tmp_path / "a.safetensors")
    assert marker.exists()  # the trap is live


@pytest.mark.filterwarnings("ignore")
def test_torchscript_is_refused(tmp_path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "a.pt")
    assert checkpoints.runs_code(tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"TorchScript program.*--trust-code"):
        checkpoints.read(tmp_path / "a.pt")


FOREIGN = {
    "html": (b"<!DOCTYPE html><html><body>Sign in</body></html>", "HTML page"),
    "html with spaces": (b"\n  <html lang='en'>", "HTML page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "gzip": (gzip.compress(b"x" * 99), "gzip"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(64), "HDF5"),
    "empty": (b"", "is empty"),
    "text": (b"hello, world, this is not a checkpoint", "neither safetensors"),
    "zip": (None, "without a torch checkpoint"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_foreign_files_are_named(case, tmp_path):
    content, said = FOREIGN[case]
    file = tmp_path / "model.pt"
    if content is None:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("model.bin", b"x")
    else:
        file.write_bytes(content)
    for action in (checkpoints.read, lambda path: convert(path, tmp_path / "n.safetensors")):
        with pytest.raises(UserError, match=said) as error:
            action(file)
        assert str(file) in sentence(error)


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        checkpoints.read(tmp_path / "none.pt")


@pytest.mark.parametrize("kind", ["safetensors", "torch", "legacy"])
def test_every_truncation_is_one_sentence(kind, tmp_path):
    whole = tmp_path / "whole"
    tensors = {"a": torch.rand(40, 40), "b": torch.rand(7)}
    if kind == "safetensors":
        safetensors.torch.save_file(tensors, whole)
    else:
        torch.save(tensors, whole, _use_new_zipfile_serialization=kind == "torch")
    content = whole.read_bytes()
    assert kind_of(whole) == kind
    file = tmp_path / "cut"
    for size in [1, 5, 20, *range(100, len(content), len(content) // 40), len(content) - 1]:
        file.write_bytes(content[:size])
        for action in (checkpoints.read, lambda path: convert(path, tmp_path / "n.safetensors")):
            with pytest.raises(UserError) as error:
                action(file)
            assert str(file) in sentence(error)
    assert not (tmp_path / "n.safetensors").exists()


def test_zip_bombs_are_refused_before_unpacking(tmp_path):
    torch.save(weights(), tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
        archive.writestr("a/data/9", bytes(50_000_000))
    assert (tmp_path / "b.pth").stat().st_size < 100_000
    for action in (checkpoints.read, lambda path: convert(path, tmp_path / "n.safetensors")):
        with pytest.raises(UserError, match="more than its own size"):
            action(tmp_path / "b.pth")


def quantised():
    return torch.quantize_per_tensor(torch.rand(3), 0.1, 0, torch.qint8)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.tensor([1.0, float("nan"), 2.0]), "holds 1 NaN or infinite of 3"),
        (torch.tensor([float("inf")]).half(), "NaN or infinite"),
        (torch.eye(3).to_sparse(), "sparse_coo tensor"),
        (quantised, "quantised"),
        (torch.rand(3, dtype=torch.complex64), "complex"),
        (torch.ones(1).expand(2_000_000), "claims 2,000,000 numbers but does not hold them"),
        (torch.empty(3, device="meta"), "is a meta tensor"),
    ],
    ids=["nan", "inf16", "sparse", "quantised", "complex", "expanded", "meta"],
)
def test_values_that_are_no_weights(tmp_path, value, said):
    value = value() if callable(value) else value
    torch.save({"a.weight": value}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=said) as error:
        checkpoints.read(tmp_path / "a.pth")
    assert "a.pth" in sentence(error)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_mutated_safetensors_headers(tmp_path_factory, data):
    base = safetensors.torch.save({"a": torch.rand(3, 4), "b": torch.ones(5)})
    (length,) = struct.unpack("<Q", base[:8])
    header, body = base[8 : 8 + length], base[8 + length :]
    mutate = data.draw(st.sampled_from(["bytes", "length", "json"]))
    if mutate == "bytes":
        position = data.draw(st.integers(0, len(header) - 1))
        byte = data.draw(st.integers(0, 255))
        header = header[:position] + bytes([byte]) + header[position + 1 :]
    elif mutate == "length":
        length = data.draw(st.integers(0, 2**64 - 1))
    else:
        tree = json.loads(header)
        number = st.integers(-(2**62), 2**64)
        tree["a"][data.draw(st.sampled_from(["shape", "data_offsets"]))] = data.draw(
            st.lists(number, max_size=4)
        )
        tree["a"]["dtype"] = data.draw(st.sampled_from(["F32", "F64", "I8", "F8_E4M3", "X", ""]))
        header = json.dumps(tree).encode()
        length = len(header)
    file = tmp_path_factory.mktemp("st") / "a.safetensors"
    file.write_bytes(struct.pack("<Q", length) + header + body)
    try:
        tensors = checkpoints.read(file).tensors
    except UserError as error:
        assert "\n" not in str(error) and str(file) in str(error)
    else:
        assert sum(value.numel() for value in tensors.values()) <= len(body)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), new_format=st.booleans())
def test_mutated_torch_files(tmp_path_factory, data, new_format):
    stream = io.BytesIO()
    torch.save(
        {"state_dict": weights(), "opt": argparse.Namespace(a=1)},
        stream,
        _use_new_zipfile_serialization=new_format,
    )
    content = bytearray(stream.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.mktemp("pt")
    file = folder / "a.pth"
    file.write_bytes(content)
    for action in (checkpoints.read, lambda path: convert(path, folder / "n.safetensors")):
        try:
            action(file)
        except UserError as error:
            assert "\n" not in str(error) and str(file) in str(error)


def load_inert(content):
    return Machine().load(io.BytesIO(content))


@pytest.mark.parametrize("protocol", range(6))
def test_inert_reader_agrees_with_pickle_on_plain_data(protocol):
    value = {"a": [1, 2.5, "x", (1, 2, 3, 4), (), None, True, -(10**30)], "b": {"c": (1,)}}

    def made(node):
        if isinstance(node, Pairs):
            return {made(key): made(item) for key, item in node.pairs}
        return type(node)(map(made, node)) if isinstance(node, list | tuple) else node

    assert made(load_inert(pickle.dumps(value, protocol=protocol))) == value


def test_inert_reader_writes_calls_down():
    node = load_inert(pickle.dumps(Touch("x"), protocol=4))
    assert isinstance(node, Call) and node.function == Name("io.open") and node.args == ("x", "w")


BOMBS = {
    "memo of four billion": b"\x80\x04Nr\xff\xff\xff\xff0j\xff\xff\xff\xff.",
    "bytes that are not there": b"\x80\x05\x96" + struct.pack("<Q", 1 << 60) + b"x.",
    "text that is not there": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"x.",
    "nothing on the stack": b"\x80\x04.",
    "mark as value": b"\x80\x04(\x85.",
    "no mark": b"\x80\x04Nt.",
    "memo that is not there": b"\x80\x04h\x07.",
    "number of many digits": b"L" + b"9" * 10_000 + b"L\n.",
    "item in a number": b"\x80\x04K\x01K\x02a.",
    "no end": b"\x80\x04" + b"N0" * 10,
    "unknown opcode": b"\x80\x04\xff.",
}


@pytest.mark.parametrize("case", BOMBS)
def test_bombs_in_a_pickle_allocate_nothing(case):
    if case == "memo of four billion":
        assert load_inert(BOMBS[case]) is None  # a dictionary does not mind
    else:
        with pytest.raises(MalformedError):
            load_inert(BOMBS[case])


def test_deep_nesting_does_not_overflow():
    depth = 200_000
    node = load_inert(b"\x80\x04" + b"]" * depth + b"a" * (depth - 1) + b".")
    assert isinstance(node, list)


def test_one_storage_under_many_names_is_refused(tmp_path):
    big = torch.rand(100_000)
    content = {f"w{i}": big for i in range(50)} | {"where": Path("/x")}
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(UserError, match="50 tensors would fill 20,000,000 bytes"):
        convert(tmp_path / "a.pth", tmp_path / "b.safetensors")


@pytest.mark.parametrize("new_format", [True, False])
def test_convert_keeps_the_numbers(tmp_path, new_format):
    source = Tiny()
    base = torch.rand(6, 8)
    content = {
        "state_dict": OrderedDict(source.state_dict())
        | {"view": base.t()[2:5, 1:4], "half": torch.rand(3).half(), "p": nn.Parameter(base[0])},
        "hyper_parameters": {"root": Path("/data")},
        "callbacks": {Tiny: {"best": torch.tensor(1.0)}},
    }
    torch.save(content, tmp_path / "a.ckpt", _use_new_zipfile_serialization=new_format)
    with pytest.raises(UserError, match="pathlib"):
        checkpoints.read(tmp_path / "a.ckpt")
    done = convert(tmp_path / "a.ckpt", tmp_path / "b.safetensors")
    assert any("Tiny" in name for name in done.left)
    tensors = checkpoints.read(tmp_path / "b.safetensors").tensors
    assert set(tensors) == set(content["state_dict"]) and done.tensors == len(tensors)
    for key, value in content["state_dict"].items():
        assert torch.equal(tensors[key], value.detach().to(tensors[key].dtype))


@pytest.mark.parametrize("new_format", [True, False])
def test_convert_takes_a_pickled_module_apart(tmp_path, new_format):
    source = Tiny()
    torch.save(source, tmp_path / "a.pth", _use_new_zipfile_serialization=new_format)
    with pytest.raises(UserError, match="Tiny"):
        checkpoints.read(tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "b.safetensors")
    tensors = checkpoints.read(tmp_path / "b.safetensors").tensors
    expected = source.state_dict()
    assert set(tensors) == set(expected)
    assert all(torch.equal(tensors[key], expected[key]) for key in expected)


def test_convert_reads_the_layout_so_that_the_new_file_is_plain(tmp_path):
    state = {"model.a.weight": torch.rand(2, 2), "layer_blocks.0.x": torch.rand(2)}
    torch.save({"state_dict": state, "opt": Path("/x"), "progress": None}, tmp_path / "a.pth.tar")
    done = convert(tmp_path / "a.pth.tar", tmp_path / "b.safetensors")
    assert done.layout == "roth"
    assert set(checkpoints.read(tmp_path / "b.safetensors").tensors) == {"a.weight"}


def test_convert_refuses_wrong_names_and_leaves_nothing(tmp_path):
    torch.save(weights(), tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"\*\.safetensors"):
        convert(tmp_path / "a.pth", tmp_path / "b.pth")
    with pytest.raises(UserError, match="cannot be written"):
        convert(tmp_path / "a.pth", tmp_path / "none" / "b.safetensors")
    convert(tmp_path / "a.pth", tmp_path / "b.safetensors")
    with pytest.raises(UserError, match="already"):
        convert(tmp_path / "b.safetensors", tmp_path / "c.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pth", "b.safetensors"]


def test_a_tensor_outside_its_storage_is_refused(tmp_path):
    torch.save({"a": torch.rand(4), "where": Path("/x")}, tmp_path / "a.pth")
    content = (tmp_path / "a.pth").read_bytes()
    assert content.count(b"K\x04\x85") == 1  # its size, (4,)
    (tmp_path / "a.pth").write_bytes(content.replace(b"K\x04\x85", b"K\x7f\x85"))
    with pytest.raises(UserError, match="beyond its storage"):
        convert(tmp_path / "a.pth", tmp_path / "b.safetensors")
