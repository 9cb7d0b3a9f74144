"""Ways to damage the files that the project reads. Each takes valid content and a random generator."""

import argparse
import io
import json
import pickle
import random
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch

Damage = Callable[[bytes, random.Random], bytes]
HOSTILE = [
    *(
        b"\0",
        b"\xff\xfe",
        b"\x7f",
        b"\x1b[2J",
        b"\r",
        b"\n\n",
        b"\t",
        b"  ",
        b"@@ ",
        b"-1",
        b"1e999",
    ),
    *(
        b"99999999999999999999999",
        b"nan",
        b"null",
        b"{}",
        b"[]",
        b"[[[[",
        b'"',
        b": ",
        b"&a *a",
        b"x: &x [1]\ny: [*x, *x]\n",
    ),
    *(b"!!python/object/apply:os.abort []", b"<s> 1", b"../../../etc/passwd", b"\xed\xa0\x80"),
    *(
        text.encode()
        for text in (
            "\u202eabc\u202c",
            "\u200f",
            "👩‍👩‍👧",
            "e\u0301",
            "\u2028",
            "שלום",
            "\ufeff",
            "٣",
        )
    ),
]
# Odd values for the options of a checkpoint or in a JSON file.
ODD_VALUES = [
    None,
    -1,
    0,
    1,
    7,
    2**31,
    2**62,
    10**30,
    0.5,
    float("nan"),
    float("inf"),
    True,
    "",
    "x",
]
ODD_VALUES += ["\0", "9" * 400, [], [3], [[]], {}, {"a": []}, [-1, 10**9], ("attn:1:0:0",), b"\xff"]


METADATA = (
    "",
    "0",
    "-1",
    "1e9",
    "9" * 400,
    "nan",
    "true",
    "{}",
    "[]",
    '{"src_vocab": []}',
    "[" * 9000,
)
EXTERNAL = {
    "location": ("/etc/passwd", "../model.onnx", "model.onnx", "nowhere", "", "."),
    "offset": ("0", "-1", "999999999", "x", ""),
    "length": ("0", "4", "-1", "999999999999", "x"),
}


def damage(content: bytes, chance: random.Random) -> bytes:
    """Return ``content`` with one to four of: a cut, changed bytes, a piece lost, doubled or inserted."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        start = chance.randint(0, len(data))
        end = min(len(data), start + chance.choice([1, 2, 8, 64, 4096]))
        match chance.randrange(6):
            case 0:
                del data[start:]
            case 1:
                data[start:end] = chance.randbytes(end - start)
            case 2:
                del data[start:end]
            case 3:
                data[start:start] = data[start:end]
            case _:
                data[start:start] = chance.choice(HOSTILE) * chance.choice([1, 1, 1, 50])
    return bytes(data)


def damage_graph(content: bytes, chance: random.Random) -> bytes:
    """Return a readable ONNX file with one or two changed parts, or one with damaged bytes."""
    if chance.random() < 0.3:
        return damage(content, chance)
    model = onnx.ModelProto.FromString(content)
    graph = model.graph
    for _ in range(chance.choice([1, 1, 2])):
        node, weight = chance.choice(graph.node), chance.choice(graph.initializer)
        match chance.randrange(16):
            case 0:
                graph.node.remove(node)
            case 1:
                node.op_type = chance.choice(["Add", "MatMul", "NoSuchOperator", "", "Softmax"])
            case 2 if node.input:
                node.input[0] = chance.choice(["", "nowhere", chance.choice(graph.node).output[0]])
            case 3 if node.attribute:
                attribute = chance.choice(node.attribute)
                attribute.i = chance.choice([-1, 0, 2**62])
            case 4:
                weight.dims.append(chance.choice([0, 2, 2**40]))
            case 5:
                weight.data_type = chance.randrange(25)
            case 6:
                weight.raw_data = weight.raw_data[: chance.randint(0, len(weight.raw_data))]
            case 7:
                weight.raw_data = chance.randbytes(len(weight.raw_data))
            case 8:
                graph.initializer.remove(weight)
            case 9 | 10 if model.metadata_props:
                entry = chance.choice(model.metadata_props)
                entry.value = chance.choice([*METADATA, damage(entry.value.encode(), chance).hex()])
            case 11 if model.metadata_props:
                model.metadata_props.remove(chance.choice(model.metadata_props))
            case 12:
                weight.ClearField("raw_data")
                weight.data_location = onnx.TensorProto.EXTERNAL
                for key in ("location", "offset", "length"):
                    weight.external_data.add(key=key, value=chance.choice(EXTERNAL[key]))
            case 13 | 14:
                graph.node.extend(_growing(graph.input[0].name, chance))
            case _:
                model.opset_import[0].version = chance.choice([0, 7, 13, 99])
    return model.SerializeToString()


def _growing(source: str, chance: random.Random) -> list[onnx.NodeProto]:
    """Nodes that make a tensor of a computed size, which may be too large for any memory."""
    make = onnx.helper.make_node
    factor = np.array([chance.choice([1, 2, 2**10, 2**20, 2**40, -1])])
    growth = chance.choice(["Mul", "Max", "Pow", "Add"])
    end = chance.choice(
        [make("ConstantOfShape", ["grown"], ["made"]), make("Expand", [source, "grown"], ["made"])]
    )
    return [
        make("Constant", [], ["factor"], value=onnx.numpy_helper.from_array(factor)),
        make("Shape", [source], ["size"]),
        make(growth, ["size", "factor"], ["grown"]),
        end,
    ]


class Runs:
    """Calls ``function`` when it is unpickled, like a hostile checkpoint that runs code."""

    def __init__(self, function: Callable, *arguments: Any) -> None:
        self._call = function, arguments

    def __reduce__(self) -> tuple[Callable, tuple]:
        return self._call


def damage_checkpoint(
    content: bytes, chance: random.Random, hostile: Callable, *given: Any
) -> bytes:
    """Return a checkpoint with odd options or weights, a damaged form, or ``hostile(*given)`` inside."""
    match chance.randrange(10):
        case 0 | 1 | 2:
            return damage(content, chance)
        case 3 | 4:
            return _damage_pickle(content, chance)
    checkpoint = torch.load(io.BytesIO(content), weights_only=False)
    options, weights = vars(checkpoint["args"]), checkpoint["model"]
    for _ in range(chance.choice([1, 1, 2])):
        option, weight = chance.choice(sorted(options)), chance.choice(sorted(weights))
        match chance.randrange(12):
            case 0 | 1 | 2:
                options[option] = chance.choice(ODD_VALUES)
            case 3 | 4:  # options that set sizes of the network have such names
                sizes = [name for name in sorted(options) if _sizes(name)]
                options[chance.choice(sizes)] = chance.choice(ODD_VALUES)
            case 5:
                del options[option]
            case 6:
                del weights[weight]
            case 7:
                weights[weight] = chance.choice([None, 3, "x", torch.zeros(()), torch.zeros(0, 5)])
            case 8:
                dtype = chance.choice([torch.int64, torch.complex64, torch.bool, torch.float64])
                weights[weight] = weights[weight].to(dtype)
            case 9:
                weights[weight] = weights[weight].new_full(
                    weights[weight].shape, chance.choice([float("nan"), float("inf"), 1e38])
                )
            case 10:
                key = chance.choice(["args", "model"])
                checkpoint[key] = chance.choice([*ODD_VALUES, argparse.Namespace(), checkpoint])
                break
            case 11:
                place = chance.choice([checkpoint, options, weights])
                place[chance.choice([*place, "x"])] = Runs(hostile, *given)
                break
    written = io.BytesIO()
    if chance.random() < 0.1:
        written.write(pickle.dumps(checkpoint, chance.choice([2, 4, 5])))
    else:
        torch.save(checkpoint, written, pickle_protocol=chance.choice([2, 4]))
    return written.getvalue()


def _sizes(name: str) -> bool:
    return any(
        word in name for word in ("dim", "layers", "heads", "kernel", "max_", "crf", "branch")
    )


def _damage_pickle(content: bytes, chance: random.Random) -> bytes:
    """Return a valid archive with one damaged member, which PyTorch reads and the zip reader does not."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(written, "w") as new:
        names = old.namelist()
        hit = next(name for name in names if name.endswith("data.pkl"))
        if chance.random() < 0.3:
            hit = chance.choice(names)
        for name in names:
            member = old.read(name)
            new.writestr(name, damage(member, chance) if name == hit else member)
    return written.getvalue()


def damage_json(content: bytes, chance: random.Random) -> bytes:
    """Return a JSON file with one or two odd values, or with damaged bytes."""
    if chance.random() < 0.4:
        return damage(content, chance)
    root = {"": json.loads(content)}
    for _ in range(chance.choice([1, 2])):
        place: Any = root
        while True:
            key = chance.choice([*place] if isinstance(place, dict) else range(len(place)))
            if not (isinstance(place[key], dict | list) and place[key]) or chance.random() < 0.1:
                break
            place = place[key]
        if isinstance(place, dict) and place is not root and chance.random() < 0.3:
            del place[key]
        else:
            place[key] = chance.choice([v for v in ODD_VALUES if not isinstance(v, bytes)])
    return json.dumps(root[""]).encode()
