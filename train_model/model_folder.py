"""Model folders: a checkpoint, dictionaries and text processing, and the model.yaml that names them.

``data_model/<name>/`` is found by its name, any other folder by its path. doc/models.md describes model.yaml,
and ``python -m train_model.import_model`` writes one. No other module has the names of models.

    python -m train_model.model_folder --list
    python -m train_model.model_folder --make demo      (used by the Makefile)

The Makefile calls it before anything is installed, so neither this module nor its imports at the top need a
package. The keys for the Makefile must be on separate lines in model.yaml.
"""

import dataclasses
import functools
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from train_model.cli import Parser, UserError, first_line, run
from train_model.model_yaml import (
    DESCRIPTION,
    description_text,
    digests_of,
    known_architecture,
    plain_lines,
    read_description,
)
from train_model.models.architectures import ALIASES, ARCHITECTURES, Family

if TYPE_CHECKING:
    from train_model.data.text import TextOptions

DATA = Path(__file__).resolve().parents[1] / "data_model"
CORPORA = Path("build/data")
"""The folder of ``train_model.data.corpora``'s corpora, which model.yaml may name for its test text."""
IMPORT = "make import CHECKPOINT=... SRC_DICT=... TGT_DICT=... CODES=... NAME=..."
MODEL_HELP = "a name in data_model, or the path of a model folder (default demo)"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
# Other folders in build/, which a model's name must not be.
RESERVED = re.compile(
    r"audit|bench|cmake|compare|curves|data|eval|figures|load|lock|plugins|plugin_.*|roofline|sensitivity"
    r"|sweep|throughput|torch_ops|triton|timing\.cache|.*-(ptq|qat|distilled)"
)


@dataclasses.dataclass(frozen=True)
class ModelFolder:
    """The content of a model.yaml, with absolute paths; None for anything that the model lacks.

    Attributes:
        name: the name in messages and of the folder in build/; no two models share one.
        given: the value of ``MODEL=`` for it, if not the name.
        checkpoint: the weights: fairseq's .pt, or .safetensors with ``options``.
        architecture: a name in ``train_model.models.architectures.ARCHITECTURES``.
        languages: source and target, for Moses' rules; empty where unknown.
        src_dict, tgt_dict: dictionaries; the same path if the dictionary is joined.
        text: the steps between sentences and the dictionary's units.
        test_src, test_tgt: parallel text in the model's input and output form; other splits are in the same
            folder.
        options: fairseq's options of the network, if the checkpoint does not hold them.
        random_weights: the seed of the weights of a model without a checkpoint.
        judge: the folder of the autoregressive model that rescores this one's translations; empty for none.
        folder: the folder of model.yaml; None for a model made by a program.
        obtain: the command that gets a missing checkpoint.
    """

    name: str
    checkpoint: Path
    architecture: str = "conv_crf_transformer"
    languages: tuple[str, str] = ("", "")
    src_dict: Path | None = None
    tgt_dict: Path | None = None
    text: "TextOptions | None" = None
    test_src: Path | None = None
    test_tgt: Path | None = None
    options: Mapping[str, Any] | None = None
    random_weights: int | None = None
    judge: str = ""
    folder: Path | None = None
    obtain: str = ""
    given: str = ""

    @property
    def argument(self) -> str:
        """The value of ``MODEL=`` and ``--model`` for this model."""
        return self.given or self.name

    @property
    def family(self) -> Family:
        """The kind of network, see ``train_model.models.architectures``."""
        return ARCHITECTURES[self.architecture].family

    @property
    def autoregressive(self) -> bool:
        """Whether the network gives one token per step."""
        return self.family == "autoregressive"

    def require_text(self) -> Self:
        """Return the model itself.

        Raises:
            UserError: it has no dictionaries or text processing.
        """
        if self.text is None or self.src_dict is None or self.tgt_dict is None:
            raise UserError(_no_text(self.name))
        return self

    def require_test(self) -> Self:
        """Return the model itself.

        Raises:
            UserError: it has no text processing, or no test text.
        """
        self.require_text()
        if self.test_src is None or self.test_tgt is None:
            raise UserError(_no_test(self.name))
        for path in (self.test_src, self.test_tgt):
            if not path.is_file():
                raise UserError(
                    f"{self.name} is measured on {path}, which is missing; "
                    f"run `make corpus CORPUS={path.parent.name}`"
                )
        return self


def _no_text(name: str) -> str:
    return (
        f"{name} has no text processing (text: in its {DESCRIPTION}), so it cannot read sentences; "
        f"import it with its dictionaries and codes ({IMPORT}), or use MODEL=demo"
    )


def _no_test(name: str) -> str:
    return (
        f"{name} has no test text (test: in its {DESCRIPTION}), so there is nothing to measure; "
        "import it with TEST_SRC= and TEST_TGT=, or use MODEL=demo"
    )


def names() -> list[str]:
    """The models in data_model."""
    return sorted(path.parent.name for path in DATA.glob(f"*/{DESCRIPTION}"))


def find_model(model: str, build_dir: str | Path = "build") -> ModelFolder:
    """Return the model of a name or a path, with its files; makes random weights older than model.yaml again.

    Raises:
        UserError: the model does not exist, its model.yaml is damaged, or a file is missing.
    """
    found = dataclasses.replace(read_folder(locate(model), model_name(model)), given=model)
    if found.random_weights is not None:
        checkpoint = Path(build_dir) / found.name / "checkpoint.pt"
        found = dataclasses.replace(found, checkpoint=checkpoint)
        if not _is_newer(checkpoint, found.folder / DESCRIPTION):
            _make_random_weights(found)
    if not found.checkpoint.is_file():
        raise UserError(_no_checkpoint(found.name, found.checkpoint, found.obtain))
    return found


def locate(model: str) -> Path:
    """Return the folder of a name in data_model, or of a path (with a "/", or "." or "..").

    Raises:
        UserError: there is none.
    """
    if "/" in model or model in (".", ".."):
        folder = Path(model)
        if not (folder / DESCRIPTION).is_file():
            what = f"no {DESCRIPTION}" if folder.is_dir() else "no such folder"
            raise UserError(f"{model} is not a model: {what}; make one: {IMPORT}")
        return folder.resolve()
    if not NAME.fullmatch(model) or not (DATA / model / DESCRIPTION).is_file():
        raise UserError(f"no model {model!r}; MODEL is {_either(names())}, or the path of a folder")
    return DATA / model


def model_name(model: str) -> str:
    """Return a model's name: its folder's, followed by a hash of the path if it is outside data_model."""
    folder = locate(model)
    if folder.parent == DATA:
        return folder.name
    plain = re.sub(r"[^A-Za-z0-9._+-]", "_", folder.name).lstrip("._+-") or "model"
    return f"{plain[:48]}-{hashlib.sha256(str(folder).encode()).hexdigest()[:10]}"


def check_name(name: str) -> str:
    """Return ``name`` if it can name a folder in data_model and in build.

    Raises:
        UserError: it has a path or other characters in it, or is reserved in build.
    """
    if not NAME.fullmatch(name):
        raise UserError(
            f"{name!r} cannot name a model: give letters, digits and . _ + -, at most 64"
        )
    if RESERVED.fullmatch(name):
        raise UserError(f"build/{name} is the folder of something else; give another name")
    return name


def quantized_checkpoint(name: str, build_dir: str | Path = "build") -> Path | None:
    """Return the model's checkpoint in INT8: the fine-tuned one, else the calibrated one, else None."""
    made = (Path(build_dir) / f"{name}-{how}" / "checkpoint.pt" for how in ("qat", "ptq"))
    return next((path for path in made if path.exists()), None)


def validation_text(test_src: Path) -> Path:
    """Return the source of the validation split, which is next to that of the test split."""
    return test_src.with_name(f"valid{test_src.suffix}")


def read_folder(folder: Path, name: str | None = None) -> ModelFolder:
    """Read ``folder``'s model.yaml; its text files must exist, its checkpoint need not.

    Raises:
        UserError: it is not YAML, has unknown keys or wrong values, a file is missing, or a dictionary
            is another one than the network was trained with.
    """
    from train_model.data.dictionary import SPECIAL_IDS
    from train_model.data.text import TextOptions

    path = folder / DESCRIPTION
    content = read_description(path)
    if content.get("special_symbols", SPECIAL_IDS) != SPECIAL_IDS:
        given = content["special_symbols"]
        raise UserError(f"{path}: special_symbols are {given}; networks here have {SPECIAL_IDS}")
    try:
        text = TextOptions.from_mapping(content["text"], folder) if "text" in content else None
    except UserError as error:
        remedy = f"; get it: {content['obtain']}" if "obtain" in content else ""
        raise UserError(f"{path}: {error}{remedy}") from error
    for file in (text.codes, text.target_codes, text.truecase_model) if text else ():
        if file is not None:
            inside(folder, str(file), path)
    file = functools.partial(_file, folder, path, content.get("obtain", ""))
    test = content.get("test", {})
    languages = (content.get("source_language", ""), content.get("target_language", ""))
    if set(test) == {"corpus"}:  # text that is not committed; `make corpus` makes it
        corpus = CORPORA / str(test["corpus"])
        test_src, test_tgt = (corpus / f"test.{language}" for language in languages)
    elif not test or set(test) == {"source", "target"}:
        test_src, test_tgt = file(test.get("source")), file(test.get("target"))
    else:
        raise UserError(f"{path}: test: give source and target, or corpus, and no more")
    model = ModelFolder(
        name=name or folder.name,
        checkpoint=inside(folder, content.get("checkpoint", "checkpoint.pt"), path),
        architecture=ALIASES.get(content["architecture"], content["architecture"]),
        languages=languages,
        src_dict=file(content.get("source_dictionary")),
        tgt_dict=file(content.get("target_dictionary", content.get("source_dictionary"))),
        text=text,
        test_src=test_src,
        test_tgt=test_tgt,
        options=content.get("options"),
        random_weights=content.get("random_weights"),
        judge=str(inside(folder, content["judge"], path)) if "judge" in content else "",
        folder=folder,
        obtain=content.get("obtain", ""),
    )
    _check_dictionaries(model, digests_of(content, path), path)
    return model


def _check_dictionaries(model: "ModelFolder", digests: tuple[str, str] | None, path: Path) -> None:
    """Raise ``UserError`` if a dictionary has other words than the one that the network was trained with."""
    from train_model.data.dictionary import Dictionary

    for file, digest in zip((model.src_dict, model.tgt_dict), digests or (), strict=False):
        if file is not None and Dictionary.load(file).digest() != digest:
            remedy = f"get it again: {model.obtain}" if model.obtain else "import the model again"
            raise UserError(
                f"{file} has other words than the dictionary that {model.name} was trained with "
                f"(dictionary_sha256 in {path}); {remedy}"
            )


def inside(folder: Path, name: str, where: Path) -> Path:
    """Return the path of the file ``name`` in a model folder or in a sibling folder.

    Raises:
        UserError: the path leads out of the folder's parent.
    """
    path = Path(os.path.normpath(folder / name))
    if not path.is_relative_to(folder.parent) or path == folder.parent:
        raise UserError(
            f"{where}: {name} leads out of {folder.parent}; put the file into the folder"
        )
    return path


def _file(folder: Path, where: Path, obtain: str, name: str | None) -> Path | None:
    if name is None:
        return None
    path = inside(folder, str(name), where)
    if not path.is_file():
        remedy = f"get it: {obtain}" if obtain else "put it there, or import the model again"
        raise UserError(f"{where} names {path}, which is missing; {remedy}")
    return path


def _is_newer(made: Path, source: Path) -> bool:
    """Whether ``made`` exists and is not older than ``source``, as make decides."""
    return made.is_file() and made.stat().st_mtime_ns >= source.stat().st_mtime_ns


def _make_random_weights(model: ModelFolder) -> None:
    import argparse

    import torch

    from train_model.models.checkpoint import save_checkpoint

    architecture = ARCHITECTURES[model.architecture]
    options = dict(model.options or {})
    sizes = options.pop("src_vocab", None), options.pop("tgt_vocab", None)
    try:
        config = architecture.configure(argparse.Namespace(**options), *sizes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(model.random_weights)
            network = architecture.build(config)
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{model.folder / DESCRIPTION}: options: {error}") from error
    save_checkpoint(model.checkpoint, network, config)


def _no_checkpoint(name: str, checkpoint: Path, obtain: str) -> str:
    remedy = obtain or IMPORT
    return (
        f"model {name} is not here: {checkpoint} is missing; get it: {remedy}; "
        "works without it: every target with MODEL=demo"
    )


def _either(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else "".join(words)


def main(argv: list[str] | None = None) -> None:
    """Command line; see ``--help``."""
    parser = Parser(prog="python -m train_model.model_folder", description=first_line(__doc__))
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument(
        "--list", action="store_true", help="the models in data_model, one per line"
    )
    action.add_argument(
        "--make",
        metavar="MODEL",
        help='name, family, checkpoint, model.yaml and "random" or "file", for the Makefile',
    )
    action.add_argument(
        "--checkpoint", metavar="MODEL", help="make the model's random weights, if it has any"
    )
    action.add_argument("--text", metavar="MODEL", help="fail unless it can read sentences")
    action.add_argument("--test", metavar="MODEL", help="fail unless it has test text")
    arguments = parser.parse_args(argv)
    if arguments.list:
        print("\n".join(names()))
    elif arguments.make is not None:
        print(*_for_make(arguments.make))
    elif arguments.checkpoint is not None:
        _ready(arguments.checkpoint)
    else:
        _check_text(arguments.text or arguments.test, test=arguments.test is not None)


class _Answer(NamedTuple):
    name: str
    family: Family
    checkpoint: str
    description: str
    kind: str


def _for_make(model: str) -> _Answer:
    """Return the facts for the Makefile: words without spaces, found without any package."""
    folder, name = locate(model), model_name(model)
    path = folder / DESCRIPTION
    plain = plain_lines(path)
    if "architecture" not in plain:
        raise UserError(f"{path} lacks a line with architecture:; see doc/models.md")
    architecture = known_architecture(plain["architecture"], path)
    is_random = "random_weights" in plain
    checkpoint = inside(folder, plain.get("checkpoint", "checkpoint.pt"), path)
    if is_random:
        checkpoint = Path("build", name, "checkpoint.pt")
    answer = _Answer(
        name,
        ARCHITECTURES[architecture].family,
        _from_here(checkpoint),
        _from_here(path),
        "random" if is_random else "file",
    )
    if odd := [word for word in (model, *answer) if not re.fullmatch(r"[\w./+@,=~-]+", word)]:
        raise UserError(
            f"make cannot handle the path {odd[0]!r}; link the folder under a plain name"
        )
    return answer


def _from_here(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _ready(model: str) -> None:
    answer = _for_make(model)
    if answer.kind == "random":
        find_model(model)
    elif not Path(answer.checkpoint).is_file():
        obtain = plain_lines(Path(answer.description)).get("obtain", "")
        raise UserError(_no_checkpoint(answer.name, Path(answer.checkpoint), obtain))


def _check_text(model: str, test: bool) -> None:
    """Raise ``UserError`` if no line of a model.yaml begins with ``text:``, or with ``test:``."""
    name = model_name(model)
    content = description_text(locate(model) / DESCRIPTION)
    if not re.search(r"^text:", content, re.M):
        raise UserError(_no_text(name))
    if test and not re.search(r"^test:", content, re.M):
        raise UserError(_no_test(name))


if __name__ == "__main__":
    run(main)
