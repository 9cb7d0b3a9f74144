"""The metadata of exported networks."""

import dataclasses
import json
from typing import Any

from train_model.data.dictionary import SPECIAL_IDS


def metadata(config: Any) -> dict[str, str]:
    """Return the metadata that a runner or the surgeon needs; see doc/export.md."""
    return {
        "architecture": config.architecture,
        "config": json.dumps(dataclasses.asdict(config), sort_keys=True),
        "padding_policy": config.padding_policy,
        "left_pad_source": str(config.left_pad_source).lower(),
        "special_ids": json.dumps(SPECIAL_IDS),
        "max_source_positions": str(config.max_source_positions),
        "max_target_positions": str(config.max_target_positions),
    }
