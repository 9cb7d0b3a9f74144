"""Moses' tokenisation and truecasing, with sacremoses."""

import os
from collections.abc import Callable, Collection

from train_model.cli import UserError
from train_model.data.files import check_size
from train_model.data.subwords import require

Step = Callable[[str], str]

# A hyphen inside a word after Moses' option -a; Google's WMT16 text has the second form (fairseq #632).
_SPLIT_DASHES = ("@-@", "##AT##-##AT##")


def marks_in(symbols: Collection[str]) -> dict[str, str]:
    """Return the options of Moses' tokenisation that a dictionary shows, with the symbol that shows each.

    The options are ``moses``, ``aggressive_dashes`` (Moses' ``-a``) and ``no_escape``. Moses writes quotes
    and apostrophes as the words ``&quot;`` and ``&apos;``. Both must occur: other text may have one.
    """
    dash = next((form for form in _SPLIT_DASHES if form in symbols), None)
    apostrophe = next((word for word in symbols if word.startswith("&apos;")), None)
    escaped = "&quot;" in symbols and apostrophe is not None
    found = {}
    if escaped or dash:
        found["moses"] = "&quot;" if escaped else dash
    if dash:
        found["aggressive_dashes"] = dash
    if dash and not escaped and '"' in symbols:
        found["no_escape"] = '"'
    return found


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
        check_size(model)
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
