"""The folder for what programs make when they first need it, outside a clone."""

import os
from pathlib import Path

CACHE = "LITE_TRANSFORMER_TRT_CACHE"
"""The environment variable that names the folder."""


def user_cache() -> Path:
    """Return the folder that ``CACHE`` names, or else lite-transformer-trt in the user's cache folder."""
    if named := os.environ.get(CACHE):
        return Path(named)
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(user) / "lite-transformer-trt"
