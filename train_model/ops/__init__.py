"""The networks' PyTorch operators, in the namespace ``lite``.

Importing this package registers the operator of every module in it with a PyTorch form that runs on any
device. If the CUDA library (``make torch-ops``) is found, it is loaded and takes over for CUDA tensors.
"""

import importlib
import pkgutil

from train_model.ops.crf_decode import crf_decode
from train_model.ops.crf_normaliser import crf_normaliser, crf_normaliser_backward
from train_model.ops.cuda_library import cuda_library_path, load_cuda_library
from train_model.ops.dynamic_conv import dynamic_conv, dynamic_conv_backward
from train_model.ops.fake_quantize import fake_quantize

__all__ = [
    "crf_decode",
    "crf_normaliser",
    "crf_normaliser_backward",
    "cuda_library_path",
    "dynamic_conv",
    "dynamic_conv_backward",
    "fake_quantize",
    "load_cuda_library",
]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
load_cuda_library()
