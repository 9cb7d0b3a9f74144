"""FP32 against INT8 in ONNX Runtime: processor time of one thread, which other programs hardly change.

    make onnx MODEL=wmt16-random && make ptq patch MODEL=wmt16-random PRECISION=int8
    python doc/results/int8/latency.py wmt16-random 16x32,16x8,1x32

The two run in turns. `make bench` measures wall-clock time of all threads, on a quiet machine.
"""

import statistics
import sys
import time
from pathlib import Path

import onnxruntime

sys.path.insert(0, str(Path(__file__).parents[3]))

from onnx_export.session import open_session
from train_model.model_folder import find_model
from train_model.models.checkpoint import load_checkpoint
from trt_code.arguments import parse_shapes
from trt_code.bench import make_inputs

FILES = {"fp32": "model.onnx", "int8": "model.qdq.onnx"}
REPEATS = 9


def session(path: Path) -> onnxruntime.InferenceSession:
    return open_session(path, threads=1)


def processor_ms(one: onnxruntime.InferenceSession, tokens) -> float:
    start = time.process_time()
    one.run(None, {"src_tokens": tokens})
    return (time.process_time() - start) * 1e3


def main(name: str, shapes: str) -> None:
    files = find_model(name)
    config = load_checkpoint(files.checkpoint).config
    inputs, notes = make_inputs(files, parse_shapes(shapes), config)
    sessions = {key: session(Path("build") / name / file) for key, file in FILES.items()}
    for tokens, note in zip(inputs, notes, strict=True):
        times: dict[str, list[float]] = {key: [] for key in sessions}
        for repeat in range(REPEATS + 1):
            for key, one in sessions.items():
                spent = processor_ms(one, tokens)
                if repeat:
                    times[key].append(spent)
        fp32, int8 = (statistics.median(times[key]) for key in FILES)
        print(f"{name} {note}: {fp32:.1f} ms FP32, {int8:.1f} ms INT8, {fp32 / int8:.2f} times")


if __name__ == "__main__":
    main(*sys.argv[1:])
