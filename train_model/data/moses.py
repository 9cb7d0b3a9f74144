"""Moses' tokenisation and truecasing, with sacremoses."""

import os
from collections.abc import Callable

from train_model.cli import UserError
from train_model.data.subwords import require

Step = Callable[[str], str]


def tokenise(language: str, aggressive_dashes: bool = False, escape: bool = True) -> Step:
    """Tokenise like Moses' tokenizer.perl; raises ``UserError`` if sacremoses is not installed."""
    moses = require("sacremoses").MosesTokenizer(language)
    return lambda text: moses.tokenize(text, aggressive_dashes, return_str=True, escape=escape)


def detokenise(language: str, escape: bool = True) -> Step:
    """Detokenise like Moses' detokenizer.perl, ``@-@`` included."""
    moses = require("sacremoses").MosesDetokenizer(language)
    return lambda text: moses.detokenize(text.split(), unescape=escape)


def truecase(model: str | os.PathLike) -> Step:
    """Truecase like Moses' truecase.perl, with a trained model.

    Raises:
        UserError: the file is missing or not a truecaser's model.
    """
    sacremoses = require("sacremoses")
    try:
        moses = sacremoses.MosesTruecaser(os.fspath(model))
    except FileNotFoundError:
        raise UserError(f"no truecase model at {model}") from None
    except ValueError as error:  # includes UnicodeDecodeError
        raise UserError(f"{model} is not a truecase model: {error}") from None
    return lambda text: moses.truecase(text, return_str=True, use_known=True)


def detruecase() -> Step:
    """Detruecase like Moses' detruecase.perl: sentences begin in upper case."""
    moses = require("sacremoses").MosesDetruecaser()
    return lambda text: moses.detruecase(text, return_str=True)
