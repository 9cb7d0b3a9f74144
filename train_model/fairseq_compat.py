"""Prepares Python 3.11 and later, NumPy 2 and PyTorch 2.6 and later for fairseq 0.12.2, its last release.

Call :func:`prepare` before the first ``import fairseq``, as all of this project's modules do. The
obstacles and their remedies:

* Python 3.11 refuses a dataclass instance as a field's default unless its class is hashable.
  fairseq's configuration has such defaults and reads them back from the class, so they cannot become
  factories. fairseq's own dataclasses are given ``object``'s hash while they are defined.
* NumPy 1.24 removed the aliases ``np.float`` and ``np.int``, which ``fairseq.modules.DynamicCRF`` and
  ``fairseq.data.data_utils`` use. They are set to the built-in types that they always meant.
* PyTorch 2.6 unpickles nothing but tensors by default. fairseq's checkpoints also hold its
  configuration and meters; exactly those classes are allowed, so a checkpoint that wants to run code
  is still refused.

Two more changes do not depend on versions. fairseq writes a checkpoint under a temporary name, but copies
it in place to ``checkpoint_last.pt`` and ``checkpoint_best.pt``. A training that is killed during the copy
leaves a partial file and cannot continue, so the copies get a temporary name too. And fairseq's parser
takes ``--bf16`` as a request to train on a TPU; here it trains on GPUs.
"""

import argparse
import collections
import contextlib
import dataclasses
import enum
import functools
import importlib.util
import inspect
import logging
import shutil
import sys
import typing
from collections.abc import Iterator
from pathlib import Path

from train_model.cli import UserError, atomic_path

FAIRSEQ_VERSION = "0.12.2"


@functools.cache
def prepare() -> None:
    """Import fairseq in this process; later ``import fairseq`` statements then work.

    Raises:
        UserError: fairseq is not installed; the message says how to install it.
    """
    if importlib.util.find_spec("fairseq") is None:
        raise UserError(
            "fairseq is not installed; run: pip install hydra-core==1.3.2 omegaconf==2.3.0 cython "
            f"bitarray cffi regex sacrebleu && pip install --no-deps fairseq=={FAIRSEQ_VERSION}"
        )
    _restore_numpy_aliases()
    with _hashable_dataclasses("fairseq"), _quiet("fairseq.tasks.text_to_speech"):
        import fairseq  # noqa: F401
    _allow_checkpoint_classes()
    _copy_whole_files()
    _train_bf16_on_gpus()
    _hold_back_tracebacks()


def _restore_numpy_aliases() -> None:
    import numpy as np

    for name, builtin in (("float", float), ("int", int)):
        if name not in vars(np):
            setattr(np, name, builtin)


@contextlib.contextmanager
def _hashable_dataclasses(package: str) -> Iterator[None]:
    """Give the identity hash to the dataclasses that ``package`` defines inside this block."""
    original = dataclasses.dataclass

    @functools.wraps(original)
    def dataclass(cls=None, /, **options):
        if cls is None:
            return functools.partial(dataclass, **options)
        result = original(cls, **options)
        if result.__hash__ is None and result.__module__.split(".")[0] == package:
            result.__hash__ = object.__hash__
        return result

    dataclasses.dataclass = dataclass
    try:
        yield
    finally:
        dataclasses.dataclass = original


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Silence the warnings that the module ``name`` logs; the project does not use it."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _allow_checkpoint_classes() -> None:
    """Allow fairseq's loader to unpickle the classes that fairseq's trainer writes, and no others.

    The loader then raises ``UserError`` for a file that is not a checkpoint.
    """
    import torch
    from fairseq import checkpoint_utils

    load, allowed = checkpoint_utils.load_checkpoint_to_cpu, _checkpoint_classes()

    @functools.wraps(load)
    def load_checkpoint_to_cpu(path, *args, **kwargs):
        try:
            with torch.serialization.safe_globals(allowed):
                return load(path, *args, **kwargs)
        except MemoryError:
            raise
        except Exception as error:  # a file of another kind raises many types of errors
            if isinstance(error, OSError) and error.filename:
                raise
            raise UserError(
                f"{path} is damaged or no checkpoint of a training; remove it or name another one"
            ) from error

    checkpoint_utils.load_checkpoint_to_cpu = load_checkpoint_to_cpu


def _copy_whole_files() -> None:
    """Make fairseq's copies of files atomic."""
    from fairseq.file_io import PathManager

    def copy(src_path: str, dst_path: str, overwrite: bool = False) -> bool:
        if Path(dst_path).exists() and not overwrite:
            return False
        with atomic_path(dst_path) as temporary:
            shutil.copyfile(src_path, temporary)
        return True

    PathManager.copy = staticmethod(copy)


def _train_bf16_on_gpus() -> None:
    """Let ``--bf16`` train on GPUs unless ``--tpu`` is given; fairseq's parser assumes a TPU."""
    from fairseq import options

    parse = options.parse_args_and_arch

    @functools.wraps(parse)
    def parse_args_and_arch(parser, *args, **kwargs):
        parsed = parse(parser, *args, **kwargs)
        for namespace in parsed if isinstance(parsed, tuple) else (parsed,):
            if isinstance(namespace, argparse.Namespace):
                namespace.tpu = "--tpu" in sys.argv
        return parsed

    options.parse_args_and_arch = parse_args_and_arch


def _hold_back_tracebacks() -> None:
    """Drop the tracebacks that fairseq logs for unwritable checkpoints; it also raises the error."""
    logging.getLogger("fairseq.checkpoint_utils").addFilter(
        lambda record: not record.getMessage().startswith("Traceback")
    )


def _checkpoint_classes() -> list:
    import numpy as np
    import omegaconf
    from fairseq.dataclass import configs, constants
    from fairseq.logging import meters

    allowed = [
        argparse.Namespace,
        collections.OrderedDict,
        collections.defaultdict,
        dict,
        int,
        list,
        typing.Any,
        omegaconf.DictConfig,
        omegaconf.ListConfig,
        omegaconf.AnyNode,
        omegaconf.base.ContainerMetadata,
        omegaconf.base.Metadata,
        np._core.multiarray._reconstruct,  # for BLEU's counts, which are arrays
        np._core.multiarray.scalar,
        np.ndarray,
        np.dtype,
        type(np.dtype(np.int64)),
        type(np.dtype(np.float64)),
    ]
    for module, base in (
        (meters, meters.Meter),
        (meters, meters.MetersDict),
        (constants, enum.Enum),
        (configs, configs.FairseqDataclass),
    ):
        allowed += [
            cls for _, cls in inspect.getmembers(module, inspect.isclass) if issubclass(cls, base)
        ]
    return allowed
