"""A batch for the small one-pass network, and the network's translation of it."""

import numpy as np
import pytest
import torch

from train_model.model_folder import ModelFolder
from train_model.models.checkpoint import load_checkpoint
from trt_code.text.batching import pad


@pytest.fixture(scope="session")
def batch() -> np.ndarray:
    """Source tokens [3, 6] for ``tiny``."""
    return pad([[0, 5, 6, 7, 8, 2], [0, 9, 2], [0, 4, 4, 2]])


@pytest.fixture(scope="session")
def expected(tiny_files: ModelFolder, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The tokens and scores that the network in PyTorch gives for ``batch``."""
    with torch.inference_mode():
        tokens, scores = load_checkpoint(tiny_files.checkpoint).model(torch.from_numpy(batch))
    return tokens.numpy(), scores.numpy()
