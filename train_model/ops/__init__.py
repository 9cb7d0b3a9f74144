"""The operators of the networks as PyTorch sees them, in the namespace ``lite``.

Importing this package registers ``lite::dynamic_conv``, ``lite::crf_decode`` and ``lite::fake_quantize``
with a PyTorch form that runs on any device. Where the CUDA build of the first two is found
(``make torch-ops``), it is loaded and takes over for CUDA tensors.
"""

from train_model.ops.crf_decode import crf_decode
from train_model.ops.cuda_library import cuda_library_path, load_cuda_library
from train_model.ops.dynamic_conv import dynamic_conv, dynamic_conv_backward
from train_model.ops.fake_quantize import fake_quantize

__all__ = [
    "crf_decode",
    "cuda_library_path",
    "dynamic_conv",
    "dynamic_conv_backward",
    "fake_quantize",
    "load_cuda_library",
]

load_cuda_library()
