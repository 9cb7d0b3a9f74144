"""Run conv_stack once on every shape of its test, for compute-sanitizer (sanitize.sh).

Its weights are packed by Python, so ``kernel_driver`` does not run it. What the numbers should be is the
business of ``trt_code/tests/test_conv_stack_gpu.py``. With PYTORCH_NO_CUDA_MEMORY_CACHING=1 every tensor
is an allocation of its own, so that a read or write beside one is seen.
"""

import sys

import torch

from trt_code.tests.test_conv_stack_gpu import DECODERS, ENCODERS, make


def main() -> int:
    """Exit status 1 where a call's results are no numbers, or another call's differ."""
    cases = [
        (b, t, h, 256 * h, 0, (3, 15), masked) for b, t, h in ENCODERS for masked in (False, True)
    ]
    cases += [(b, t, h, 128 * h, source, (1, 4, 16)) for b, t, h, source in DECODERS]
    wrong = 0
    for dtype in (torch.float16, torch.bfloat16):
        for case in cases:
            stack, _, arguments = make(dtype, *case)
            first, second = stack(*arguments), stack(*arguments)
            if not (first.isfinite().all() and first.equal(second)):
                print(f"{dtype} {case}: no numbers, or other ones the second time")
                wrong += 1
    print(f"{2 * len(cases)} cases, {wrong} findings")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
