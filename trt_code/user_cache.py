"""The folder for what programs make when they first need it, outside a clone."""

import os
from pathlib import Path

from train_model.cli import UserError

CACHE = "LITE_TRANSFORMER_TRT_CACHE"
"""The environment variable that names the folder."""


def user_cache() -> Path:
    """Return the folder that ``CACHE`` names, or else lite-transformer-trt in the user's cache folder.

    Raises:
        UserError: no variable names one, and the user has no home folder.
    """
    if named := os.environ.get(CACHE):
        return Path(named)
    if user := os.environ.get("XDG_CACHE_HOME"):
        return Path(user) / "lite-transformer-trt"
    try:
        return Path.home() / ".cache" / "lite-transformer-trt"
    except RuntimeError as error:
        raise UserError(
            f"this user has no home folder; name one for files with {CACHE}="
        ) from error
