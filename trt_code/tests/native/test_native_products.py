"""Products in INT8 against exact sums, with every kind of instruction that this processor has."""

import platform
import subprocess

import numpy as np
import pytest

from trt_code.native import library

MAIN = """
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "products.h"

using namespace lite::native;

template <typename T>
std::vector<T> read(std::size_t count) {
  std::vector<T> values(count);
  if (std::fread(values.data(), sizeof(T), count, stdin) != count) std::abort();
  return values;
}

int main() {
  const auto sizes = read<std::int32_t>(4);
  const int outputs = sizes[0], inputs = sizes[1], rows = sizes[2], x_stride = sizes[3];
  const auto scale = read<float>(1);
  const auto weight = read<std::int8_t>(std::size_t(outputs) * inputs);
  const auto x = read<float>(std::size_t(rows) * x_stride);
  const std::vector<float> scales(outputs, 1 / scale[0]);
  const IntegerWeight packed(weight.data(), scales.data(), nullptr, outputs, inputs, scale[0]);
  std::vector<float> scratch(packed.scratch_floats(rows)), out(std::size_t(rows) * outputs);
  packed.multiply(x.data(), x_stride, rows, out.data(), outputs, Activation::kLinear, nullptr,
                  scratch.data());
  std::fwrite(out.data(), sizeof(float), out.size(), stdout);
}
"""
WITHOUT = {"all": (), "no VNNI": ("-mno-avx512vnni",), "no AVX-512": ("-mno-avx512f",)}
WITHOUT |= {"no AVX": ("-mno-avx",)}


@pytest.fixture(scope="module", params=WITHOUT)
def products(request, tmp_path_factory):
    """Return a function that computes a product with a part of the processor's instructions."""
    if not library.has_compiler():
        pytest.skip("there is no C++ compiler")
    if request.param != "all" and platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("not an x86 processor")
    folder = tmp_path_factory.mktemp("products")
    (folder / "main.cpp").write_text(MAIN)
    flags = [flag for flag in library.FLAGS if flag != "-shared"]
    files = [folder / "main.cpp", library.SOURCES / "products.cpp", library.SOURCES / "team.cpp"]
    command = [*library.find_compiler(), *flags, *WITHOUT[request.param], f"-I{library.SOURCES}"]
    subprocess.run([*command, *files, "-o", folder / "main"], check=True)

    def run(weight, x, scale=1.0):
        """``x`` may have more columns than the weight has inputs."""
        sizes = np.array([*weight.shape, *x.shape], np.int32)
        parts = sizes, np.array(scale, np.float32), weight.astype(np.int8), x.astype(np.float32)
        done = subprocess.run(
            [folder / "main"],
            input=b"".join(part.tobytes() for part in parts),
            capture_output=True,
            check=True,
        )
        return np.frombuffer(done.stdout, np.float32).reshape(len(x), len(weight))

    return run


@pytest.mark.parametrize("least", [-128, 0])  # inputs without a negative one take another way
@pytest.mark.parametrize("zeros", [0, 0.97])
@pytest.mark.parametrize(
    ("outputs", "inputs", "rows"),
    [
        (1, 1, 1),
        (3, 2, 13),
        (31, 5, 12),
        (32, 64, 25),
        (33, 127, 200),
        (70, 1023, 5),
        (520, 128, 37),
    ],
)
def test_sums_are_exact(products, outputs, inputs, rows, zeros, least):
    """Also those of the extremes, in sizes that fill no vector, panel, tile or word of integers."""
    rng = np.random.default_rng(outputs)
    weight = rng.integers(-128, 128, (outputs, inputs))
    x = rng.integers(least, 128, (rows, inputs + 3))
    x[rng.random(x.shape) < zeros] = 0
    weight[0], x[0] = -128, 127 if least == 0 else -128
    weight[-1, ::2] = 127
    assert np.array_equal(products(weight, x), x[:, :inputs] @ weight.T)


@pytest.mark.parametrize("scale", [0.05, 1 / 3, 0.25, 3e-39, 1e38])
def test_inputs_are_rounded_as_their_quotients(products, scale):
    """Those about halfway between two integers, and those beyond 8 bits."""
    rng = np.random.default_rng(0)
    scale, shape = np.float32(scale), (40, 64)
    with np.errstate(over="ignore"):
        halves = (rng.integers(-130, 130, shape) + 0.5).astype(np.float32) * scale
        above = np.nextafter(halves, np.float32(np.inf))
        below = np.nextafter(halves, np.float32(-np.inf))
        others = rng.uniform(-150, 150, shape).astype(np.float32) * scale
        far = rng.choice(np.array([-np.inf, np.inf, 3e38, -3e38, 0], np.float32), shape)
        x = np.concatenate([halves, above, below, others, far])
        expected = np.clip(np.rint(x / scale), -128, 127)
    # the scales of the harness are an inverse, so that an output is nearly an integer
    assert np.array_equal(np.rint(products(np.eye(shape[1]), x, scale)), expected)
