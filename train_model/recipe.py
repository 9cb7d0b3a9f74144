"""Training recipes: YAML files in ``configs/`` with flags of fairseq's own command line."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from train_model.cli import UserError
from train_model.documents import parse_yaml, read_text

CONFIGS = Path(__file__).parent / "configs"
MAX_BYTES = 1 << 16
"""The most bytes of a recipe."""
_ON_BY_DEFAULT = ("left_pad_source",)  # fairseq's --left-pad-source switches it off


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A recipe: the training's summary, corpus and fairseq flags.

    The model is the mean of the ``average`` newest checkpoints that the training keeps; without ``average``
    it is the best checkpoint.
    """

    name: str
    summary: str
    corpus: str
    flags: dict[str, Any]
    average: int | None = None

    def arguments(self) -> list[str]:
        """The flags as fairseq's command line takes them.

        A switch is added if its value is not the default, a list gives several values, a mapping
        becomes JSON, and null omits the flag.
        """
        arguments = []
        for name, value in self.flags.items():
            option = "--" + name.replace("_", "-")
            if isinstance(value, bool):
                arguments += [option] if value is not (name in _ON_BY_DEFAULT) else []
            elif isinstance(value, list):
                arguments += [option, *map(str, value)]
            elif isinstance(value, dict):
                arguments += [option, json.dumps(value)]
            elif value is not None:
                arguments += [option, str(value)]
        return arguments


def names() -> list[str]:
    """Return the names of all recipes."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def load(name: str, overrides: list[str] | None = None) -> Recipe:
    """Read the recipe ``name``; ``overrides`` are "key=value" with YAML values, set over its flags.

    Raises:
        UserError: the recipe does not exist, its file is damaged, or an override has no "=".
    """
    if name not in names():
        raise UserError(f"no recipe {name!r}; RECIPE is one of: {', '.join(names())}")
    content = _read(CONFIGS / f"{name}.yaml")
    flags = content.pop("flags")
    for override in overrides or []:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise UserError(f"--set {override!r} is not key=value, such as max_update=1000")
        flag = key.strip().lstrip("-").replace("-", "_")
        flags[flag] = parse_yaml(value, f"--set {override!r}:", "of a flag's value", "change it")
        _check_value(flags[flag], f"--set {override!r}")
    return Recipe(name=name, flags=flags, **content)


def _read(path: Path) -> dict[str, Any]:
    """Return the content of a recipe's file: "summary", "corpus", the mapping "flags", perhaps "average"."""
    remedy = "mend it, or check it out again"
    content = parse_yaml(read_text(path, remedy, MAX_BYTES), str(path), "of a recipe", remedy)
    expected = {"summary": str, "corpus": str, "flags": dict, "average": int}
    if not isinstance(content, dict) or content.keys() | {"average"} != expected.keys():
        raise UserError(
            f"{path} is not a recipe: it has to have summary, corpus, flags, and may have average"
        )
    for key, value in content.items():
        if not isinstance(value, expected[key]) or (key == "average" and value < 1):
            meant = {"flags": "a mapping of fairseq's flags", "average": "1 or more"}
            raise UserError(f"{path} is not a recipe: its {key} has to be {meant.get(key, 'text')}")
    odd = [name for name in content["flags"] if not isinstance(name, str)]
    if odd:
        raise UserError(f"{path} is not a recipe: flag {odd[0]!r} has to be a name")
    for name, value in content["flags"].items():
        _check_value(value, f"{path}: flag {name}")
    return content


def _check_value(value: object, where: str) -> None:
    """Raise ``UserError`` unless a flag's value is made of text, finite numbers and switches."""
    if isinstance(value, dict):
        _check_value([*value.keys(), *value.values()], where)
    elif isinstance(value, list):
        for item in value:
            _check_value(item, where)
    elif not (value is None or isinstance(value, str | int | float)):
        raise UserError(f"{where} has a {type(value).__name__}; write text and numbers")
    elif isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where} has the number {value}; write a finite one")
