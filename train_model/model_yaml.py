"""model.yaml, the description of a model: its keys, and reading it with and without a YAML parser.

The Makefile reads it before anything is installed, through ``train_model.model_folder``, so the imports at
the top need no package. doc/models.md describes the keys.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from train_model.cli import UserError
from train_model.documents import parse_yaml, read_text
from train_model.models.architectures import ALIASES, ARCHITECTURES

DESCRIPTION = "model.yaml"
WEIGHTS_ALONE = ".safetensors"
"""The suffix of checkpoints that hold weights alone; model.yaml has their networks' options."""
MAX_BYTES = 1 << 16
"""The most bytes of a model.yaml; real ones have a few hundred."""
KEYS = {
    "architecture": str,
    "checkpoint": str,
    "options": dict,
    "random_weights": int,
    "padding_policy": str,
    "source_language": str,
    "target_language": str,
    "source_dictionary": str,
    "target_dictionary": str,
    "dictionary_sha256": dict,
    "special_symbols": dict,
    "text": dict,
    "test": dict,
    "judge": str,
    "summary": str,
    "source": str,
    "licence": str,
    "obtain": str,
}
PLAIN = {"architecture": str, "checkpoint": str, "random_weights": int, "obtain": str}
"""Keys that are also read without PyYAML, and their types."""


def description_text(path: Path) -> str:
    """Return the text of a model.yaml of a usual size."""
    return read_text(path, "mend it", MAX_BYTES)


def read_description(path: Path) -> dict[str, Any]:
    """Return the content of a model.yaml.

    Raises:
        UserError: it is not YAML, a key is unknown, or a value has the wrong type.
    """
    content = parse_yaml(description_text(path), str(path), "of a model", "mend it")
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a model's description: it has to be a mapping of keys")
    for key, value in content.items():
        if key not in KEYS:
            raise UserError(f"{path}: unknown key {str(key)!r}; there are: {', '.join(KEYS)}")
        if not isinstance(value, KEYS[key]) or isinstance(value, bool):
            kind = {str: "text", int: "a whole number", dict: "a mapping"}[KEYS[key]]
            raise UserError(f"{path}: {key} is {str(value)[:40]!r}; it has to be {kind}")
    if "architecture" not in content:
        raise UserError(f"{path} lacks architecture:; it is one of {', '.join(ARCHITECTURES)}")
    known_architecture(content["architecture"], path)
    for key, value in plain_lines(path).items():
        if content.get(key) != value:
            raise UserError(f"{path}: write {key} once, on a line of its own, without quotes")
    for key in PLAIN.keys() & content.keys() - plain_lines(path).keys():
        raise UserError(f"{path}: write {key} on a line of its own, without quotes")
    policies = ("upstream", "masked")
    if content.get("padding_policy", "masked") not in policies:
        raise UserError(f"{path}: padding_policy is one of {', '.join(policies)}")
    if "random_weights" in content and "options" not in content:
        raise UserError(f"{path}: random_weights needs options:, which say what the network is")
    return content


def plain_lines(path: Path) -> dict[str, Any]:
    """Return the values of the keys ``PLAIN``, one per line of the file, without a YAML parser."""
    found = re.findall(
        rf"^({'|'.join(PLAIN)}):[ \t]+([^#\n]*\S)[ \t\r]*(?:#.*)?$", description_text(path), re.M
    )
    return {
        key: int(value) if PLAIN[key] is int and re.fullmatch("[0-9]{1,9}", value) else value
        for key, value in found
    }


def known_architecture(name: str, path: Path) -> str:
    """Return an architecture's own name, for one of its aliases too.

    Raises:
        UserError: the project does not have it.
    """
    if ALIASES.get(name, name) not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise UserError(f"{path}: architecture is {name!r}; this project runs {known}")
    return ALIASES.get(name, name)


def read_options(checkpoint: Path) -> dict[str, Any]:
    """Return the network's options in the model.yaml next to ``checkpoint``.

    Raises:
        UserError: there is no model.yaml, or it has no options.
    """
    path = checkpoint.parent / DESCRIPTION
    if not path.is_file():
        raise UserError(
            f"{checkpoint} holds weights alone, and there is no {path} with the network's options"
        )
    content = read_description(path)
    if "options" not in content:
        raise UserError(f"{path} has no options:, which {checkpoint.name} needs")
    return {"arch": content["architecture"]} | content["options"]


def described(checkpoint: Path, architecture: str | None = None) -> dict[str, Any]:
    """Return what the model.yaml next to ``checkpoint`` says of its network's configuration.

    That is the padding policy and the digests of the dictionaries, as far as they are given.

    Args:
        checkpoint: the file.
        architecture: the checkpoint's, if it is known.

    Raises:
        UserError: that file is damaged, or names another architecture.
    """
    path = checkpoint.parent / DESCRIPTION
    if not path.is_file() or plain_lines(path).get("checkpoint") != checkpoint.name:
        return {}
    content = read_description(path)
    if architecture not in (None, known_architecture(content["architecture"], path)):
        raise UserError(
            f"{path} says architecture: {content['architecture']}, and {checkpoint.name} is of "
            f"{architecture}; mend that line"
        )
    found = {
        "padding_policy": content.get("padding_policy"),
        "dictionaries": digests_of(content, path),
    }
    return {name: value for name, value in found.items() if value}


def computation(checkpoint: Path) -> dict[str, Any]:
    """Return what the model.yaml next to ``checkpoint`` says of the network's computation.

    That is the padding policy, and the options of a checkpoint that does not hold them.

    Raises:
        UserError: that file is damaged.
    """
    policy = described(checkpoint).get("padding_policy")
    found = {"padding_policy": policy} if policy else {}
    if checkpoint.suffix == WEIGHTS_ALONE:
        found["options"] = read_options(checkpoint)
    return found


def digests_of(content: Mapping[str, Any], path: Path) -> tuple[str, str] | None:
    """Return the digests of the source and the target dictionary that the network was trained with."""
    digests = content.get("dictionary_sha256")
    if digests is None:
        return None
    if set(digests) != {"source", "target"} or not all(
        isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest)
        for digest in digests.values()
    ):
        raise UserError(f"{path}: dictionary_sha256: give source and target, 64 hex digits each")
    return digests["source"], digests["target"]
