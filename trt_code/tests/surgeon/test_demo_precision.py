"""The patched graphs of the demo model on its test split, against PyTorch in FP32."""

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from onnx_export import export
from onnx_export.reference import with_reference_functions
from train_model.cli import UserError
from train_model.data.tokenizer import Tokenizer
from train_model.model_folder import find_model
from train_model.models.checkpoint import load_checkpoint
from trt_code import onnx_surgeon

BATCH = 50
LARGEST_DROP = {"tf32": 0.0, "fp16": 0.1, "bf16": 2.0}  # percentage points of exact match


@pytest.fixture(scope="module")
def files():
    try:
        return find_model("demo")
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def exact_match(files) -> Callable:
    """Return the percentage of the test split that a function [B,S] -> tokens [B,T] translates exactly."""
    tokenizer = Tokenizer.from_files(files)
    sources, targets = (p.read_text().splitlines() for p in (files.test_src, files.test_tgt))
    pairs = [
        (tokenizer.encode(text), target) for text, target in zip(sources, targets, strict=True)
    ]
    pairs.sort(key=lambda pair: len(pair[0]))

    def measure(translate: Callable[[np.ndarray], np.ndarray]) -> float:
        right = 0
        for start in range(0, len(pairs), BATCH):
            ids, expected = zip(*pairs[start : start + BATCH], strict=True)
            source = np.ones((len(ids), len(ids[-1])), np.int64)
            for row, tokens in zip(source, ids, strict=True):
                row[: len(tokens)] = tokens
            texts = map(tokenizer.decode, translate(source))
            right += sum(text == target for text, target in zip(texts, expected, strict=True))
        return 100 * right / len(pairs)

    return measure


@pytest.fixture(scope="module")
def reference(files, exact_match) -> float:
    model = load_checkpoint(files.checkpoint).model

    def translate(source: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(source))[0].numpy()

    return exact_match(translate)


@pytest.fixture(scope="module")
def exported(files, tmp_path_factory):
    path = tmp_path_factory.mktemp("demo") / "model.onnx"
    export.main(["--checkpoint", str(files.checkpoint), "--output", str(path)])
    return path


@pytest.mark.slow
@pytest.mark.parametrize("precision", LARGEST_DROP)
def test_exact_match_holds(precision, exported, exact_match, reference):
    output = exported.with_name(f"model.{precision}.onnx")
    arguments = ["--input", str(exported), "--output", str(output), "--precision", precision]
    assert onnx_surgeon.main(arguments) == 0
    session = onnxruntime.InferenceSession(
        with_reference_functions(onnx.load(output)).SerializeToString(),
        providers=["CPUExecutionProvider"],
    )
    got = exact_match(lambda source: session.run(["output_tokens"], {"src_tokens": source})[0])
    print(f"{precision}: exact match {got:.2f} %, PyTorch FP32 {reference:.2f} %")
    assert reference > 97  # an untrained network has no quality to lose
    assert got >= reference - LARGEST_DROP[precision] - 1e-9
