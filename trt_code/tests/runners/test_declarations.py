"""The runners' declarations, and their effects."""

import threading
from pathlib import Path

import pytest

from train_model.model_folder import ModelFolder
from trt_code.runners import PRECISIONS, RUNNERS, Unavailable, create, names, rivals, spec
from trt_code.runners.pytorch import MatmulPrecision, matmul_precision
from trt_code.runners.spec import Graphs, Request, RunnerSpec

SPECS = [declared for specs in RUNNERS.values() for declared in specs]


def made(request):
    return request


def asked(precision, device, build_dir="build"):
    model = ModelFolder("demo", Path("checkpoint.pt"))
    return Request(model, precision, device, "some", build_dir)


def test_every_declaration_is_consistent():
    assert set(names()).isdisjoint(rivals())
    assert set(names()) | set(rivals()) == set(RUNNERS)
    for declared in SPECS:
        assert set(declared.precisions) <= {"cpu", "cuda"}, declared.name
        for offered in declared.precisions.values():
            assert set(offered) <= set(PRECISIONS), declared.name
        assert (declared.graphs is not None) == (declared.reads in ("onnx", "program"))
    for specs in RUNNERS.values():
        families = [family for declared in specs for family in declared.families]
        assert len(families) == len(set(families))
        assert len({declared.rival for declared in specs}) == 1


def test_a_runner_serves_the_kinds_of_network_it_declares():
    assert spec("torch", "autoregressive") is not spec("torch", "one-pass")
    assert spec("torch", "iterative") is spec("torch", "one-pass")
    assert spec("ort-split", "autoregressive") is None


@pytest.mark.parametrize(
    ("precision", "device", "reason"),
    [
        ("tf32", "cpu", "TF32 needs a CUDA GPU"),
        ("bf16", "cpu", "some runs in fp32 and fp16 on the CPU, not in bf16"),
        ("int8", "cuda", "some runs in tf32 on a GPU, not in int8"),
    ],
)
def test_what_a_runner_does_not_offer_is_one_line(precision, device, reason):
    some = RunnerSpec("some", made, {"cpu": ("fp32", "fp16"), "cuda": ("tf32",)})
    with pytest.raises(Unavailable, match=reason):
        some.check(asked(precision, device))


def test_a_device_that_a_runner_does_not_offer_is_one_line():
    with pytest.raises(Unavailable, match="gpu-only runs on a GPU only; use --device cuda"):
        RunnerSpec("gpu-only", made, {"cuda": ("fp32",)}).check(asked("fp32", "cpu"))
    with pytest.raises(Unavailable, match="cpu-only runs on the CPU only"):
        RunnerSpec("cpu-only", made, {"cpu": ("fp32",)}).check(asked("fp32", "cuda"))


def test_a_missing_file_is_named_with_the_command_that_makes_it(tmp_path):
    files = Graphs(("a.onnx", "b.onnx"), "make onnx-split")
    some = RunnerSpec("some", made, {"cpu": ("fp32",)}, graphs=lambda precision, device: files)
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "a.onnx").touch()
    with pytest.raises(Unavailable) as error:
        some.check(asked("fp32", "cpu", tmp_path))
    expected = f"{folder}/b.onnx has not been built (make onnx-split MODEL=demo)"
    assert str(error.value) == expected
    (folder / "b.onnx").touch()
    some.check(asked("fp32", "cpu", tmp_path))


def test_split_graphs_in_int8_name_the_command_that_makes_them(tiny_files, tmp_path):
    with pytest.raises(Unavailable, match="make patch-split PRECISION=int8 MODEL=tiny"):
        create("ort-split", tiny_files, "int8", "cpu", build_dir=tmp_path)


def test_a_cpu_leaves_the_precision_of_products_alone():
    with matmul_precision("tf32", "cpu"), matmul_precision("fp32", "cpu"):
        pass  # on a GPU the second would wait for the first


def test_threads_that_want_other_precisions_wait_for_each_other():
    import torch

    setting, matmul = MatmulPrecision(), torch.backends.cuda.matmul
    before = matmul.fp32_precision
    entered, leave, seen = threading.Event(), threading.Event(), []

    def first():
        with setting.hold("tf32"):
            entered.set()
            leave.wait(10)
            seen.append(("first", matmul.fp32_precision))

    def second():
        entered.wait(10)
        with setting.hold("ieee"):
            seen.append(("second", matmul.fp32_precision))

    threads = [threading.Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    entered.wait(10)
    with setting.hold("tf32"):  # the same value need not wait
        assert matmul.fp32_precision == "tf32"
    leave.set()
    for thread in threads:
        thread.join(10)
    assert seen == [("first", "tf32"), ("second", "ieee")]
    assert matmul.fp32_precision == before


def test_an_option_that_no_runner_has_is_refused(tiny_files):
    with pytest.raises(TypeError, match="thread"):
        create("torch", tiny_files, "fp32", "cpu", thread=1)
