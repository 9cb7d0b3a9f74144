"""Native programs on an Arm processor that QEMU emulates, against the library of this machine.

Needs aarch64-linux-gnu-g++ and qemu-aarch64 (Debian: g++-aarch64-linux-gnu, qemu-user-static). The emulated
processor has no Python, so a C++ program makes the calls that load a program.
"""

import ctypes
import functools
import shutil
import subprocess

import numpy as np
import pytest
import torch

from onnx_export.tests.tiny import random_source
from train_model.models.canvas import canvas_width
from train_model.tests.networks import of_architecture, small
from trt_code.native import library, program
from trt_code.native.export import to_program
from trt_code.native.translation import translate

COMPILER = "aarch64-linux-gnu-g++"
EMULATOR = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (EMULATOR and shutil.which(COMPILER)), reason="there is no Arm compiler or no QEMU"
    ),
]
TYPES = {"s": "int", "i": "int", "f": "float"}
TENSORS = {"v": ("float", 1), "m": ("float", 2), "q": ("std::int8_t", 2)}
MAIN = """
extern "C" int lite_translate(void*, const std::int64_t*, int, int, const std::int64_t*, int,
                              std::int64_t*, std::int64_t*, float*, int);
int main(int, char** names) {
  std::ifstream file(names[1], std::ios::binary);
  const std::string blob{std::istreambuf_iterator<char>(file), {}};
  std::ifstream input(names[2]);
  int batch, width, room;
  input >> batch >> width >> room;
  std::vector<std::int64_t> source(batch * width), lengths(batch), tokens(batch * room, 1);
  for (std::int64_t& token : source) input >> token;
  std::vector<float> scores(batch * room);
  void* p = load(blob.data());
  if (!p || lite_translate(p, source.data(), batch, width, nullptr, 2, lengths.data(), tokens.data(),
                           scores.data(), room) < 0) {
    std::puts(lite_error());
    return 1;
  }
  for (int i = 0; i < batch * room; ++i)
    std::printf("%lld %.9g\\n", static_cast<long long>(tokens[i]), scores[i]);
}
"""


class Recorder:
    """Stands for the library: writes the calls that load a program as C++, and their tensors to ``blob``."""

    def __init__(self):
        self.blob, self.declarations, self.lines = bytearray(), set(), []

    def lite_program(self, *sizes):
        self.lines.append(f"void* p = lite_program({', '.join(str(s.value) for s in sizes)});")
        return 1

    def lite_free(self, loaded):
        pass

    def __getattr__(self, name):
        return functools.partial(self._call, name)

    def _call(self, name, loaded, *arguments):
        types, values, rest = ["void*"], ["p"], list(arguments)
        for kind in {"lite_register": "iii"}.get(name) or program._OPERATORS[name[5:]]:
            if kind in TYPES:
                types.append(TYPES[kind])
                values.append(repr(rest.pop(0).value))
                continue
            element, axes = TENSORS[kind.lower()]
            pointer, sizes = rest.pop(0), [rest.pop(0).value for _ in range(axes)]
            types += [f"const {element}*", *["int"] * axes]
            if pointer is None:
                values += ["nullptr", *map(str, sizes)]
                continue
            self.blob += bytes(-len(self.blob) % 64)
            values += [f"(const {element}*)(blob + {len(self.blob)})", *map(str, sizes)]
            count = int(np.prod(sizes)) * (1 if kind == "q" else 4)
            self.blob += ctypes.string_at(pointer, count)
        self.declarations.add(f'extern "C" int {name}({", ".join(types)});')
        self.lines.append(f"if ({name}({', '.join(values)}) < 0) return nullptr;")
        return 0

    def source(self):
        headers = ("cstdint", "cstdio", "fstream", "iterator", "string", "vector")
        return "\n".join(
            [
                *(f"#include <{header}>" for header in headers),
                'extern "C" const char* lite_error();',
                'extern "C" void* lite_program(int, int, int, int);',
                *sorted(self.declarations),
                "void* load(const char* blob) {",
                *self.lines,
                "return p; }",
                MAIN,
            ]
        )


def compile_with(*arguments, folder=None):
    flags = [flag for flag in library.FLAGS if flag not in ("-march=native", "-shared")]
    subprocess.run([COMPILER, *flags, *arguments], check=True, cwd=folder)


@pytest.fixture(scope="module")
def arm_objects(tmp_path_factory):
    """The compiled library."""
    folder = tmp_path_factory.mktemp("arm")
    compile_with("-c", *library.SOURCES.glob("*.cpp"), folder=folder)
    return list(folder.glob("*.o"))


NETWORKS = {
    "convolutions and a CRF": lambda: small(padding_policy="upstream"),
    "mostly zeros after the ReLU": lambda: quiet(small()),
    "attention": lambda: of_architecture("nonautoregressive_transformer"),
}


def quiet(model):
    """Lower the biases before the ReLUs, so that most of their outputs are zero."""
    for name, parameter in model.named_parameters():
        if name.endswith("fc1.bias"):
            parameter.data -= 1.5
    return model


@pytest.mark.parametrize("name", NETWORKS)
def test_an_arm_processor_translates_alike(tmp_path, arm_objects, name):
    model = NETWORKS[name]().eval()
    path = tmp_path / f"model{program.SUFFIX}"
    to_program(model).save(path)
    recorder = Recorder()
    program.LoadedProgram(recorder, path)
    (tmp_path / "blob").write_bytes(recorder.blob)
    (tmp_path / "main.cpp").write_text(recorder.source())
    compile_with("-static", tmp_path / "main.cpp", *arm_objects, "-o", tmp_path / "main")

    tokens = random_source(7, 13, "right", model.config.src_vocab, torch.Generator().manual_seed(4))
    loaded = program.LoadedProgram(library.load(), path)
    expected, scores, _ = translate(loaded, tokens.numpy(), threads=1)
    batch, width = expected.shape
    room = canvas_width(tokens.shape[1], loaded.max_target)
    numbers = [batch, tokens.shape[1], room, *tokens.flatten().tolist()]
    (tmp_path / "input").write_text(" ".join(map(str, numbers)))
    command = [EMULATOR, tmp_path / "main", tmp_path / "blob", tmp_path / "input"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    found = np.array(lines[::2], int).reshape(batch, room)
    assert (found[:, :width] == expected).all()
    assert (found[:, width:] == 1).all()
    found_scores = np.array(lines[1::2], float).reshape(batch, room)[:, :width]
    np.testing.assert_allclose(found_scores, scores, atol=1e-4)
