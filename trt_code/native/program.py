"""The file of a native network: its operators, registers and weights.

An operator is a list: its name, then its arguments in the order of the C function ``lite_<name>``
(``api.cpp`` documents them). A tensor's name stands for its address and sizes. The file is a .safetensors
file; operators, registers and the properties of the network are JSON in its metadata.
"""

import ctypes
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from train_model.cli import UserError

SUFFIX = ".native.safetensors"
FORMAT = "2"
_PROGRAM = "program"
Stage = Literal["source", "target"]
Kind = Literal["rows", "history", "keys"]
_STAGES = {"source": 0, "target": 1}
_KINDS = {"rows": 0, "history": 1, "keys": 2}

# The arguments of each operator: s stage, i integer, f float, v or m tensor with one axis or two, q INT8
# tensor with two. A capital letter is a tensor that may be missing.
_OPERATORS = {
    "embed": "smMfi",
    "linear": "siimViiii",
    "integer_linear": "siiqvVfiiii",
    "norm": "siivvfi",
    "add": "siii",
    "copy": "siiiii",
    "glu": "siiii",
    "convolve": "siiiMViiiiiii",
    "keys": "iiiii",
    "attend_source": "iiiiiii",
    "attend_self": "siiiiii",
    "logits": "i",
    "positions": "smi",
    "fill_unknown": "iii",
    "copy_source": "iii",
    "lengths": "imii",
    "choose_path": "immi",
    "choose_tokens": "i",
}
_MOST_SIZE = 2**24
"""The most words, positions and columns, as in program.h."""
_MOST_ENTRIES = 10_000
"""The most registers, and the most operators. The largest published network has about 200 operators."""
_MOST_USES = 8
"""How often the operators may use the weights on average: each use copies them."""
ACTIVATIONS = ("linear", "relu", "gelu", "gelu_tanh", "tanh", "swish")


class Register(NamedTuple):
    """A register's number, for operators, and its width."""

    number: int
    columns: int


class Program:
    """Collects the operators of a network.

    Args:
        properties: of the network, strings by name; a runner reads them.
    """

    def __init__(self, properties: Mapping[str, str]) -> None:
        self.properties = dict(properties)
        self._registers: list[tuple[Stage, Kind, int]] = []
        self._operators: list[list[Any]] = []
        self._tensors: dict[str, np.ndarray] = {}

    def register(self, stage: Stage, columns: int, kind: Kind = "rows") -> Register:
        """Add a register."""
        self._registers.append((stage, kind, columns))
        return Register(len(self._registers) - 1, columns)

    def add(self, name: str, *arguments: Any) -> None:
        """Add an operator; registers and arrays stand for their numbers and tensors."""
        known = {_memory(array): key for key, array in self._tensors.items()}
        row: list[Any] = [name]
        for argument in arguments:
            if isinstance(argument, np.ndarray):
                key = known.get(_memory(argument), str(len(self._tensors)))
                self._tensors[key] = argument
                row.append(key)
            else:
                row.append(argument.number if isinstance(argument, Register) else argument)
        self._operators.append(row)

    def save(self, path: Path) -> None:
        """Write the file, atomically.

        Raises:
            UserError: the folder cannot be written to.
        """
        from safetensors.numpy import save_file

        from train_model.models.safetensors_file import atomic_safetensors

        program = {"registers": self._registers, "operators": self._operators}
        metadata = self.properties | {"format": FORMAT, _PROGRAM: json.dumps(program)}
        tensors = {key: np.ascontiguousarray(array) for key, array in self._tensors.items()}
        with atomic_safetensors(path) as temporary:
            save_file(tensors, str(temporary), metadata)


class LoadedProgram:
    """A network in the library's memory.

    Attributes:
        properties: of the network, see :class:`Program`.
        source_vocab, target_vocab: tokens of the dictionaries.
        max_source, max_target: the network's positions.

    Several threads may call it at once. Their calls share the threads that they ask for: a call takes those
    that are idle, or waits until one is.

    Raises:
        UserError: the file is missing, damaged or of another version.
    """

    def __init__(self, library: ctypes.CDLL, path: Path) -> None:
        """Load ``path``."""
        self.properties, program, tensors = _read(path)
        self._library, self._program = library, None
        self._changed, self._calls = threading.Condition(), 0
        try:
            config = json.loads(self.properties["config"])
            self.source_vocab, self.target_vocab = config["src_vocab"], config["tgt_vocab"]
            self.max_source = config["max_source_positions"]
            self.max_target = config["max_target_positions"]
            sizes = self.source_vocab, self.target_vocab, self.max_source, self.max_target
            _check_sizes(sizes, program, tensors)
            self._program = loaded = ctypes.c_void_p(library.lite_program(*map(_int, sizes)))
            for stage, kind, columns in program["registers"]:
                numbers = _STAGES[stage], _KINDS[kind], columns
                self._call(loaded, "register", *map(_int, numbers))
            for name, *arguments in program["operators"]:
                self._call(loaded, name, *_converted(name, arguments, tensors))
        except (KeyError, TypeError, ValueError, ctypes.ArgumentError, RuntimeError) as error:
            self.close()
            raise UserError(_damaged(path)) from error
        except BaseException:
            self.close()
            raise

    def search(self, *arguments: Any) -> int:
        """Call ``lite_search``; return the number of steps.

        Raises:
            UserError: a token or a sentence does not fit the network, memory is short, or the network is
                closed.
        """
        return self._checked("search", *arguments)

    def translate(self, *arguments: Any) -> None:
        """Call ``lite_translate``; raises what :meth:`search` raises."""
        self._checked("translate", *arguments)

    def close(self) -> None:
        """Free the memory, after the translations that other threads have begun."""
        with self._changed:
            program, self._program = self._program, None
            self._changed.wait_for(lambda: not self._calls)
        if program is not None:
            self._library.lite_free(program)

    def _checked(self, name: str, *arguments: Any) -> int:
        with self._changed:
            program = self._program
            if program is None:
                raise UserError("the network is closed; open it again")
            self._calls += 1
        try:
            return self._call(program, name, *arguments)
        except RuntimeError as error:
            raise UserError(error) from error
        finally:
            with self._changed:
                self._calls -= 1
                self._changed.notify_all()

    def _call(self, program: ctypes.c_void_p, name: str, *arguments: Any) -> int:
        result = getattr(self._library, f"lite_{name}")(program, *arguments)
        if result < 0:
            raise RuntimeError(self._library.lite_error().decode())
        return result


def address(array: np.ndarray) -> ctypes.c_void_p:
    """The address of an array's first value, for the library."""
    return array.ctypes.data_as(ctypes.c_void_p)


def _memory(array: np.ndarray) -> tuple[Any, ...]:
    """The address, shape and strides, which are equal for two views of the same values."""
    return array.ctypes.data, array.shape, array.strides


def _read(path: Path) -> tuple[dict[str, str], dict[str, Any], dict[str, np.ndarray]]:
    import safetensors

    try:
        with safetensors.safe_open(path, "np") as file:
            properties = file.metadata() or {}
            if properties.pop("format", None) != FORMAT:
                raise ValueError("another version")
            program = json.loads(properties.pop(_PROGRAM))
            return properties, program, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; make native") from error
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(_damaged(path)) from error


def _check_sizes(
    sizes: tuple[int, ...], program: dict[str, Any], tensors: Mapping[str, np.ndarray]
) -> None:
    """Raise ``ValueError`` if the network would take much more memory than its weights."""
    registers, operators = program["registers"], program["operators"]
    weights = sum(tensor.size for tensor in tensors.values())
    used = [
        tensors[argument].size
        for name, *arguments in operators
        for kind, argument in zip(_OPERATORS[name], arguments, strict=True)
        if kind.lower() in "vmq" and argument is not None
    ]
    if (
        not all(0 < size <= _MOST_SIZE for size in sizes)
        or max(len(registers), len(operators)) > _MOST_ENTRIES
        or sum(columns for _, _, columns in registers) > weights
        or sum(used) > _MOST_USES * weights
    ):
        raise ValueError("sizes beyond those of a network")


def _damaged(path: Path) -> str:
    return f"{path} is damaged or of another version; make it again (make native)"


def _int(value: int) -> ctypes.c_int:
    if not isinstance(value, int) or not -(2**31) <= value < 2**31:
        raise ValueError(f"{value!r} is not a 32-bit integer")
    return ctypes.c_int(value)


def _converted(name: str, arguments: list[Any], tensors: dict[str, np.ndarray]) -> list[Any]:
    """Return the C arguments of an operator.

    Raises:
        KeyError, TypeError, ValueError: they are not those of the operator.
    """
    converted: list[Any] = []
    for kind, argument in zip(_OPERATORS[name], arguments, strict=True):
        if kind == "s":
            converted.append(_int(_STAGES[argument]))
        elif kind == "i":
            converted.append(_int(argument))
        elif kind == "f":
            converted.append(ctypes.c_float(argument))
        else:
            axes = {"v": 1, "m": 2, "q": 2}[kind.lower()]
            if argument is None and kind.isupper():
                converted += [None, *[_int(0)] * axes]
                continue
            tensor = tensors[argument]
            if tensor.ndim != axes or tensor.dtype != (np.int8 if kind == "q" else np.float32):
                raise ValueError(f"tensor {argument} has another type or number of axes")
            converted += [address(tensor), *map(_int, tensor.shape)]
    return converted
