"""Protocol buffers' text format, as far as a Triton model configuration needs it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any


class Enum(str):
    """A name that is written without quotes, such as ``TYPE_INT64``."""


def dump(message: Mapping[str, Any], indent: str = "") -> str:
    """Write ``message``: mappings become messages, sequences repeated fields, in the given order."""
    return "".join(_field(name, value, indent) for name, value in message.items())


def _field(name: str, value: Any, indent: str) -> str:
    if isinstance(value, Mapping):
        return f"{indent}{name} {{\n{dump(value, indent + '  ')}{indent}}}\n"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "".join(_field(name, item, indent) for item in value)
    return f"{indent}{name}: {_scalar(value)}\n"


def _scalar(value: str | bool | int) -> str:
    if isinstance(value, Enum):
        return str(value)
    return json.dumps(value)  # "text", true, 1
