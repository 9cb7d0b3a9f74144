"""Bad ONNX files: damaged, mixed from two exports, or hostile."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_export import onnx_file
from onnx_export.checked import is_checked
from onnx_export.marks import check_pair, positions
from onnx_export.onnx_file import load_onnx, metadata_of, read_graph
from onnx_export.session import open_session
from train_model.cli import UserError
from train_model.file_sets import settle, swap_folders
from train_model.models.refinement import Refinement

ROOT = Path(__file__).parents[2]


def graph(weights: np.ndarray, *more: onnx.NodeProto, functions=()) -> onnx.ModelProto:
    """Return a graph of ``y = x + w`` and the given nodes."""
    node = helper.make_node("Add", ["x", "w"], ["y"])
    shape = ["n", weights.shape[-1]] if weights.ndim else ["n", 1]
    made = helper.make_graph(
        [node, *more],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(weights, "w")],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("lite", 1)]
    return helper.make_model(made, opset_imports=opsets, functions=functions, ir_version=10)


def tiny(value: float, size: int = 1000) -> ir.Model:
    return ir.serde.deserialize_model(graph(np.full((1, size), value, np.float32)))


def run(path: Path) -> float:
    """Return the file's added constant, as ONNX Runtime computes it."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (width,) = session.get_inputs()[0].shape[1:]
    return float(session.run(None, {"x": np.zeros((1, width), np.float32)})[0][0, 0])


@pytest.fixture
def outside(monkeypatch):
    """Store weights of a few bytes in an external file."""
    monkeypatch.setattr(onnx_file, "EXTERNAL_DATA_ABOVE", 10)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_numbers_are_neither_read_nor_written(tmp_path, value):
    path = tmp_path / "model.onnx"
    onnx.save(graph(np.array([[1, value]], np.float32)), path)
    with pytest.raises(UserError, match=r"weight w has values that are infinite or not numbers"):
        read_graph(path)
    with pytest.raises(UserError, match="is not written: weight w"):
        onnx_file.save_onnx(tiny(value), tmp_path / "other.onnx")
    assert not (tmp_path / "other.onnx").exists()


def test_an_infinite_constant_of_a_mask_is_read(tmp_path):
    onnx.save(graph(np.array(-np.inf, np.float32)), tmp_path / "model.onnx")
    read_graph(tmp_path / "model.onnx")


def test_weights_of_another_export_are_refused(tmp_path, outside):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        onnx_file.save_onnx(tiny(ord(name)), tmp_path / name / "model.onnx")
    assert run(tmp_path / "a/model.onnx") == ord("a")
    assert load_onnx(tmp_path / "a/model.onnx").graph.initializer[0].raw_data
    (tmp_path / "a/model.onnx.data").replace(tmp_path / "b/model.onnx.data")
    for reads in (read_graph, open_session):
        with pytest.raises(UserError, match="is of another export"):
            reads(tmp_path / "b/model.onnx")


def test_an_export_over_another_never_mixes_them(tmp_path, outside, monkeypatch):
    """After every rename, the files compute what one of the two exports computes."""
    path, seen = tmp_path / "model.onnx", []
    onnx_file.save_onnx(tiny(1), path)
    real = Path.replace

    def replace(self, target):
        result = real(self, target)
        seen.append(run(path))
        return result

    monkeypatch.setattr(Path, "replace", replace)
    for value in (2, 3):
        onnx_file.save_onnx(tiny(value), path)
    assert seen == [1, 2, 2, 3]
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr(onnx_file, "EXTERNAL_DATA_ABOVE", 10**6)
    onnx_file.save_onnx(tiny(4), path)
    assert [item.name for item in tmp_path.iterdir()] == ["model.onnx"]
    assert run(path) == 4


SAVE = """
import os, signal, sys
from pathlib import Path
from train_model import file_sets
from onnx_export import onnx_file
from onnx_export.checked import is_checked
from onnx_export.tests.test_onnx_file import tiny
folder, value, stop = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
real, count = Path.replace, 0
def replace(self, target):
    global count
    result = real(self, target)
    count += 1
    if count == stop:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
Path.replace = replace
onnx_file.save_pair({folder / f"model.{half}.onnx": tiny(value) for half in ("encoder", "decoder")})
"""


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_kill_while_a_pair_is_written_leaves_the_old_pair_or_the_new(tmp_path, stop):
    pair = {tmp_path / f"model.{half}.onnx": tiny(1) for half in ("encoder", "decoder")}
    onnx_file.save_pair(pair)
    done = subprocess.run(
        [sys.executable, "-c", SAVE, str(tmp_path), "2", str(stop)], cwd=ROOT, stderr=-1
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    metadata = [metadata_of(read_graph(path)) for path in pair]
    check_pair(metadata, tmp_path)
    assert {run(path) for path in pair} == {2.0}  # the first rename decides
    assert sorted(item.name for item in tmp_path.iterdir()) == sorted(path.name for path in pair)


def test_halves_of_two_exports_are_refused(tmp_path):
    for value in (1, 2):
        folder = tmp_path / str(value)
        onnx_file.save_pair({folder / f"{half}.onnx": tiny(value) for half in "ab"})
    metadata = [metadata_of(read_graph(tmp_path / name)) for name in ("1/a.onnx", "2/b.onnx")]
    with pytest.raises(UserError, match="its halves are of two exports"):
        check_pair(metadata, tmp_path)


@pytest.mark.parametrize(
    "record", ["{", "[]", '{"../x": "y"}', '{"a/b/c": "y"}', '{"x": "../y"}', '{"x": 5}']
)
def test_a_forged_record_of_renames_moves_nothing(tmp_path, record):
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "x").write_text("outside")
    (folder / "x").write_text("inside")
    (folder / ".pending-1").write_text(record)
    with pytest.raises(UserError, match="pending-1"):
        settle(folder)
    assert (tmp_path / "x").read_text() == "outside"
    assert not (tmp_path / "y").exists()


def test_a_pipe_in_place_of_a_record_does_not_block(tmp_path):
    os.mkfifo(tmp_path / ".pending-1")
    with pytest.raises(UserError, match="pending-1 is not a file; delete it"):
        settle(tmp_path)


def test_two_folders_swap_their_names(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "name").write_text(name)
    swap_folders(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a/name").read_text() == "b"
    with pytest.raises(OSError, match="No such file"):
        swap_folders(tmp_path / "a", tmp_path / "none")


def outer(model: onnx.ModelProto, **info: str) -> onnx.ModelProto:
    """The same with a weight in a file that ``info`` describes."""
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in info.items():
        tensor.external_data.add(key=key, value=value)
    return model


@pytest.mark.parametrize(
    "info",
    [
        {"location": "/etc/passwd"},
        {"location": "../secret"},
        {"location": "folder/../../secret"},
        {"location": "link"},
        {"location": "missing"},
        {"location": ""},
        {"location": "w", "offset": "999999"},
        {"location": "w", "offset": "-4"},
        {"location": "w", "offset": "x"},
        {"location": "w", "length": "4"},
        {"location": "w", "length": "99999999999"},
    ],
    ids=str,
)
def test_weights_are_read_from_the_folder_of_the_graph_only(tmp_path, info):
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(64))
    (folder / "w").write_bytes(bytes(64))
    (folder / "link").symlink_to(tmp_path / "secret")
    onnx.save(outer(graph(np.ones((1, 8), np.float32)), **info), folder / "model.onnx")
    with pytest.raises(UserError, match=r"model\.onnx"):
        read_graph(folder / "model.onnx")


def nested(levels: int, width: int) -> list[onnx.FunctionProto]:
    """Functions of which each calls the next ``width`` times."""
    opsets, functions = [helper.make_opsetid("", 20), helper.make_opsetid("lite", 1)], []
    for level in range(levels):
        last = level == levels - 1
        name, domain = ("Identity", "") if last else (f"f{level + 1}", "lite")
        nodes = [
            helper.make_node(name, [f"v{i}" if i else "a"], [f"v{i + 1}"], domain=domain)
            for i in range(width)
        ]
        functions.append(
            helper.make_function("lite", f"f{level}", ["a"], [f"v{width}"], nodes, opsets)
        )
    return functions


def call(name: str) -> onnx.NodeProto:
    return helper.make_node(name, ["x"], ["z"], domain="lite")


def loop(trips: int) -> list[onnx.NodeProto]:
    info = [
        helper.make_tensor_value_info(name, kind, [])
        for name, kind in (("i", TensorProto.INT64), ("go", TensorProto.BOOL))
    ]
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"])],
        "body",
        info,
        [helper.make_tensor_value_info("on", TensorProto.BOOL, [])],
    )
    constant = helper.make_node(
        "Constant", [], ["m"], value=numpy_helper.from_array(np.int64(trips))
    )
    return [constant, helper.make_node("Loop", ["m", ""], [], body=body)]


def constant(name: str, value) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(value)))


def chain(*steps: tuple) -> list[onnx.NodeProto]:
    """Nodes on the first dimension of x: (operator, further inputs, attributes)."""
    nodes = [
        constant("first", [0]),
        constant("many", [2**20]),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["v"]),
    ]
    for kind, inputs, attributes in steps:
        name = nodes[-1].output[0]
        given = [name if item == "v" else item for item in inputs]
        nodes.append(helper.make_node(kind, given, [f"{name}_"], **attributes))
    return nodes


def expand_as_torch_exports_it(factor: str) -> list[onnx.NodeProto]:
    """x expanded to [factor, n, 8]; for -1 the graph reads x's size, as PyTorch's older exporter does."""
    return [
        constant("first", [0]),
        constant("one", [1]),
        constant("three", [3]),
        constant("many", [2**40]),
        constant("minus", [-1]),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Concat", [factor, "shape"], ["wanted"], axis=0),
        helper.make_node(
            "ConstantOfShape", ["three"], ["ones"], value=numpy_helper.from_array(np.array([1]))
        ),
        helper.make_node("Mul", ["ones", "minus"], ["marks"]),
        helper.make_node("Equal", ["wanted", "marks"], ["kept"]),
        helper.make_node("Where", ["kept", "ones", "wanted"], ["size"]),
        helper.make_node("Expand", ["x", "size"], ["z"]),
    ]


def scan() -> list[onnx.NodeProto]:
    """A Scan over x that makes a tensor of a computed size at every step."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Shape", ["row"], ["size"]),
            helper.make_node("ConstantOfShape", ["size"], ["made"]),
        ],
        "body",
        [value("row", TensorProto.FLOAT, None)],
        [value("made", TensorProto.FLOAT, None)],
    )
    return [helper.make_node("Scan", ["x"], ["z"], body=body, num_scan_inputs=1)]


RECURSIVE = helper.make_function(
    "lite", "f0", ["a"], ["b"], [helper.make_node("f0", ["a"], ["b"], domain="lite")], []
)
HARM = {
    "functions": ([call("f0")], nested(40, 2), "more than 100000 nodes"),
    "unused functions": ([], nested(40, 2), "more than 100000 nodes"),
    "recursion": ([call("f0")], [RECURSIVE], "calls itself"),
    "loop": (loop(2**62), [], "is a Loop, which may never end"),
    "constant of shape": (
        [constant("s", [2**20, 2**20]), helper.make_node("ConstantOfShape", ["s"], ["z"])],
        [],
        "makes more than",
    ),
    "expand": (
        [constant("s", [2**40, 8]), helper.make_node("Expand", ["x", "s"], ["z"])],
        [],
        "makes more than",
    ),
    "tile": (
        [constant("s", [2**40, 1]), helper.make_node("Tile", ["x", "s"], ["z"])],
        [],
        "makes more than",
    ),
    "range": (
        [
            *(
                constant(name, np.int64(value))
                for name, value in zip("abc", (0, 2**60, 1), strict=True)
            ),
            helper.make_node("Range", ["a", "b", "c"], ["z"]),
        ],
        [],
        "makes more than",
    ),
    "computed shape": (
        chain(
            ("Mul", ["v", "many"], {}),
            ("Concat", ["v", "v"], {"axis": 0}),
            ("ConstantOfShape", ["v"], {}),
        ),
        [],
        "makes more than",
    ),
    "computed range": (
        [
            constant("zero", 0),
            constant("one", 1),
            *chain(
                ("Max", ["v", "many"], {}),
                ("Mul", ["v", "many"], {}),
                ("Squeeze", ["v"], {}),
                ("Range", ["zero", "v", "one"], {}),
            ),
        ],
        [],
        "makes more than",
    ),
    "computed expand": (expand_as_torch_exports_it("many"), [], "makes more than"),
    "computed twice": (
        chain(
            ("Max", ["v", "many"], {}),
            ("ConstantOfShape", ["v"], {}),
            ("Shape", ["v"], {}),
            ("Concat", ["v", "v"], {"axis": 0}),
            ("ConstantOfShape", ["v"], {}),
        ),
        [],
        "makes more than",
    ),
    "product of two vectors": (
        [
            *chain(
                ("Max", ["v", "many"], {}),
                ("ConstantOfShape", ["v"], {}),
                ("Unsqueeze", ["v", "first"], {}),
                ("Transpose", ["v"], {}),
            ),
            helper.make_node("Unsqueeze", ["v__", "first"], ["row"]),
            helper.make_node("Mul", ["row", "v____"], ["z"]),
        ],
        [],
        "makes more than",
    ),
    "size from the input's values": (
        [
            helper.make_node("NonZero", ["x"], ["places"]),
            helper.make_node("Shape", ["places"], ["size"]),
            helper.make_node("ConstantOfShape", ["size"], ["z"]),
        ],
        [],
        "whose size depends on more than the input's size",
    ),
    "joined behind NonZero": (
        [
            helper.make_node("NonZero", ["x"], ["v0"]),
            *(helper.make_node("Concat", [f"v{i}"] * 16, [f"v{i + 1}"], axis=1) for i in range(8)),
        ],
        [],
        "whose size depends on more than the input's size",
    ),
    "sequences": (
        [
            helper.make_node("SequenceConstruct", ["x", "x"], ["pair"]),
            helper.make_node("ConcatFromSequence", ["pair"], ["z"], axis=1),
        ],
        [],
        "whose size depends on more than the input's size",
    ),
    "strings": (
        [
            helper.make_node("Cast", ["x"], ["s"], to=TensorProto.STRING),
            helper.make_node("StringConcat", ["s", "s"], ["z"]),
        ],
        [],
        "whose size depends on more than the input's size",
    ),
    "many inputs": ([helper.make_node("Sum", ["x"] * 5000, ["z"])], [], "more than 4096 inputs"),
    "computed inside of a loop": (scan(), [], "of unknown size at every step"),
}


@pytest.mark.parametrize("name", HARM)
def test_a_graph_that_could_run_for_ever_or_fill_the_memory_is_refused(tmp_path, name):
    nodes, functions, reason = HARM[name]
    model = graph(np.ones((1, 8), np.float32), *nodes, functions=functions)
    onnx.save(model, tmp_path / "model.onnx")
    start = time.monotonic()
    for reads in (read_graph, open_session):
        with pytest.raises(UserError, match=reason):
            reads(tmp_path / "model.onnx")
    assert time.monotonic() - start < 20


def test_the_older_exports_expand_is_accepted(tmp_path):
    model = graph(np.ones((1, 8), np.float32), *expand_as_torch_exports_it("one"))
    onnx.save(model, tmp_path / "model.onnx")
    open_session(tmp_path / "model.onnx")
    read_graph(tmp_path / "model.onnx")


def test_a_file_is_checked_again_when_another_takes_its_place(tmp_path):
    path, other = tmp_path / "model.onnx", tmp_path / "other.onnx"
    onnx.save(graph(np.ones((1, 8), np.float32)), path)
    onnx.save(graph(np.ones((1, 8), np.float32), *HARM["expand"][0]), other)
    open_session(path)
    assert is_checked(path)
    os.utime(other, ns=(0, path.stat().st_mtime_ns))
    for harmful in (other, path):
        if harmful is path:
            path.write_bytes(other.read_bytes())
        assert not is_checked(harmful)
        with pytest.raises(UserError, match="makes more than"):
            open_session(harmful)
    for damaged in ("[]", "{", "[" * 100_000, '{"model.onnx": 1}'):
        (tmp_path / ".checked.json").write_text(damaged)
        assert not is_checked(path)


def test_functions_of_a_usual_size_are_read_and_run(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(graph(np.ones((1, 8), np.float32), call("f0"), functions=nested(4, 3)), path)
    read_graph(path)
    open_session(path)


@pytest.mark.parametrize(
    "config",
    [
        None,
        "",
        "[]",
        "{}",
        *(f'{{"iter_decode_max_iter": {n}}}' for n in ("-1", "1e3", '"2"', 10**12)),
    ],
)
def test_metadata_without_the_number_of_passes_is_one_line(config):
    metadata = {"architecture": "cmlm_transformer"} | ({} if config is None else {"config": config})
    with pytest.raises(UserError, match="do not say how often its decoder runs"):
        Refinement.in_metadata(metadata)


@pytest.mark.parametrize("value", ["", "x", "-1", "1e3", "9" * 5000, "0"])
def test_metadata_without_positions_is_one_line(tmp_path, value):
    metadata = {"max_source_positions": value, "max_target_positions": "10"}
    with pytest.raises(UserError, match="does not say how many positions"):
        positions(metadata, tmp_path)
    assert positions(metadata | {"max_source_positions": "20"}, tmp_path) == (20, 10)


def test_files_left_before_the_first_rename_replace_nothing(tmp_path):
    (tmp_path / "model.encoder.onnx").write_bytes(b"old")
    os.mkdir(tmp_path / ".model.encoder.onnx.abc")
    settle(tmp_path)
    assert (tmp_path / "model.encoder.onnx").read_bytes() == b"old"
