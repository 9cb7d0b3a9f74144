"""The roofline's arithmetic, and that it can be drawn without a GPU."""

import json

import pytest

from train_model.cli import UserError
from trt_code.measure import roofline
from trt_code.measure.kernels import OPERATORS, SHAPES

CEILINGS = {
    "machine": {"cpu": "a CPU", "gpu": "a GPU"},
    "ceilings": {"bytes_per_s": 3e12, "operations_per_s": {"fp16": 7e14, "fp32": 6e13}},
}


@pytest.fixture
def files(tmp_path, monkeypatch, tiny_files):
    monkeypatch.setattr(roofline, "find_model", lambda name, build_dir: tiny_files)
    row = {
        "op": "layer_norm",
        "shape": "16x32",
        "dtype": "fp16",
        "kernel_us": 2.0,
        "moved_bytes": 3,
    }
    wrong = {"op": "top_k", "shape": "16x32", "dtype": "fp16", "error": "other indices"}
    timed = {"runner": "torch", "precision": "fp32", "bs": 2, "sl": 8, "lt": 4.0}
    written = {
        "ceilings": CEILINGS,
        "kernels": {"rows": [row, wrong]},
        "sweep": {
            "model": "tiny",
            "rows": [timed, timed | {"lt": None}, timed | {"runner": "cuda-graph"}],
        },
    }
    for name, content in written.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def test_points_and_picture(files):
    flags = [f"--{name}={files / name}.json" for name in ("ceilings", "kernels", "sweep")]
    roofline.main([*flags, "--output", str(files)])
    results = json.loads((files / "roofline.json").read_text())
    kernel, network = results["points"]
    assert (kernel["name"], kernel["seconds"], kernel["bytes"]) == ("layer_norm", 2e-6, 3)
    assert (network["name"], network["shape"], network["seconds"]) == ("torch", "2x8", 0.004)
    assert (files / "roofline.png").read_bytes().startswith(b"\x89PNG")


def test_a_networks_work_is_that_of_its_products(files, tiny_files):
    measured = json.loads((files / "sweep.json").read_text())
    (point,) = roofline.network_points(measured, "build")
    # two layers per side, 16 channels, 16 and 32 positions: the largest products counted by hand
    ffn = 2 * 2 * 16 * 32 * (2 * 8 + 2 * 16) * 2
    assert ffn < point["operations"] < 8 * ffn


@pytest.mark.parametrize("op", OPERATORS)
def test_work_grows_with_the_shape(op):
    small, large = (roofline.kernel_operations(op, shape) for shape in ("1x32", "16x32"))
    assert 0 < small < large <= 17 * small
    assert set(SHAPES) >= {"1x32", "16x32"}


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "kernels.json is missing; run"), ("[", "kernels.json is not JSON"), ("{}", "'rows'")],
)
def test_a_bad_file_is_one_line(content, words, files):
    path = files / "kernels.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(UserError, match=words):
        roofline.main([f"--ceilings={files}/ceilings.json", f"--kernels={path}"])
