"""Make a model folder from a fairseq checkpoint, its dictionaries and its text processing.

    python -m train_model.import_model --checkpoint checkpoint_best.pt --src-dict dict.en.txt \\
        --tgt-dict dict.de.txt --codes bpe.codes --name mine
    python -m train_model.import_model --from data-bin/mine --checkpoint checkpoint_best.pt --codes bpe.codes
    python -m train_model.import_model --from wmt16.en-de.tar.gz

``--from`` takes fairseq's data-bin folder, or a hub archive (``model.pt``, ``dict.*.txt``, ``bpecodes``),
packed or not; other options replace the files found there. Before ``data_model/<name>`` appears, the files
are checked against each other and the network translates a sentence. doc/models.md describes the folder.
"""

import argparse
import dataclasses
import functools
import re
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from train_model.cli import Parser, UserError, first_line, output_folder, path_argument, run
from train_model.data.dictionary import BOS, EOS, SPECIAL_IDS, SPECIALS, UNK, Dictionary
from train_model.data.files import check_parallel, read_lines
from train_model.data.moses import marks_in
from train_model.data.text import CHOICES, TextOptions
from train_model.data.tokenizer import Tokenizer, normalise
from train_model.model_folder import (
    DATA,
    NAME,
    ModelFolder,
    check_name,
    find_model,
    read_folder,
    validation_text,
)
from train_model.model_pieces import (
    ARCHIVES,
    DICTIONARY,
    Pieces,
    pieces_in,
    recorded_languages,
    unpacked,
)
from train_model.model_yaml import DESCRIPTION
from train_model.models.architectures import architecture_of
from train_model.models.beam_search import search
from train_model.models.checkpoint import Loaded, load_checkpoint, save_checkpoint
from train_model.models.hypotheses import SearchOptions
from train_model.models.incremental import IncrementalDecoder
from train_model.progress import task
from train_model.scratch import scratch_folder

IN_CHECKOUT = (DATA.parent / "Makefile").is_file()
LEAST_SHARE = 0.5
"""The least share of a dictionary's units that the codes give, and of a text's units in the dictionary."""
WORDS_TRIED = 6
TEXT = re.compile(r".+\.([A-Za-z_-]+)")
"""The name of a text, with its language."""


def import_model(
    name: str,
    pieces: Pieces,
    text: TextOptions | None,
    facts: dict[str, str],
    policy: str | None = None,
    models: Path = DATA,
    load: Callable[[Path], Loaded] = load_checkpoint,
) -> ModelFolder:
    """Make the folder ``models/name`` atomically.

    Args:
        name: name of the new folder.
        pieces: the files; at least a checkpoint.
        text: the text processing, or None for a network without text.
        facts: further keys of model.yaml, such as the licence.
        policy: the padding policy; None: the checkpoint's.
        models: the folder in which the new folder is made.
        load: loads the checkpoint.

    Raises:
        UserError: the folder exists, a piece is missing or damaged, or the pieces do not belong together.
    """
    target = models / check_name(name)
    if target.exists():
        raise UserError(f"{target} exists already; remove it, or give another name")
    if pieces.checkpoint is None:
        raise UserError(
            "there is no checkpoint; give one with --checkpoint (make import CHECKPOINT=...)"
        )
    with task("reading the checkpoint") as shown:
        loaded = load(pieces.checkpoint)
        # an imported model stands alone: it records no checkpoint that it was made from
        changes = {"made_from": ()} | ({"padding_policy": policy} if policy else {})
        loaded.model.config = dataclasses.replace(loaded.config, **changes)
        loaded = dataclasses.replace(loaded, config=loaded.model.config)
        shown.begin("comparing the pieces")
        if text is not None:
            _check_languages(pieces, loaded)
            _check_dictionaries(pieces, loaded)
            _check_units(pieces, text)
        if pieces.test_src and pieces.test_tgt:
            check_parallel(pieces.test_src, pieces.test_tgt)
            _check_text(pieces.test_src)
        shown.begin("writing")
        with scratch_folder(target) as scratch:
            draft = scratch / name
            draft.mkdir()
            _write(draft, pieces, loaded, text, facts)
            shown.begin("translating a sentence")
            _try(read_folder(draft))
            try:
                draft.rename(target)
            except OSError as error:  # another process made it meanwhile
                raise UserError(
                    f"{target} exists already; remove it, or give another name"
                ) from error
    return read_folder(target)


def _check_languages(pieces: Pieces, loaded: Loaded) -> None:
    """Compare the model's languages with those of the checkpoint and in the other files' names.

    The names are ``dict.LANGUAGE.txt`` and ``TEXT.LANGUAGE``.
    """
    source, target = pieces.languages
    if source == target:
        return
    if recorded_languages(loaded) == (target, source):
        raise UserError(
            f"{pieces.checkpoint} was trained from {target} to {source}; give --languages {target}-{source}"
        )
    for path, own, other, what in (
        (pieces.src_dict, source, target, "the dictionaries"),
        (pieces.tgt_dict, target, source, "the dictionaries"),
        (pieces.test_src, source, target, "the test texts"),
        (pieces.test_tgt, target, source, "the test texts"),
    ):
        match = path and (DICTIONARY.fullmatch(path.name) or TEXT.fullmatch(path.name))
        if match and match[1] == other:
            raise UserError(
                f"{path} is given for {own}, and its name says {other}; are {what} swapped?"
            )


def _check_text(path: Path) -> None:
    """Refuse a text without words."""
    if not any(map(str.strip, read_lines(path))):
        raise UserError(f"{path} has no text")


def _check_dictionaries(pieces: Pieces, loaded: Loaded) -> None:
    """Compare the sizes of the dictionaries with those of the embeddings."""
    rows = loaded.config.src_vocab, loaded.config.tgt_vocab
    if pieces.src_dict is None or pieces.tgt_dict is None:
        raise UserError(
            "there are no dictionaries; give --src-dict and --tgt-dict (make import SRC_DICT= TGT_DICT=), "
            "or one of them if they are the same"
        )
    words = tuple(len(Dictionary.load(path)) for path in (pieces.src_dict, pieces.tgt_dict))
    for side, path, own, row in zip(
        ("source", "target"), (pieces.src_dict, pieces.tgt_dict), words, rows, strict=True
    ):
        if own != row:
            swapped = words == rows[::-1] and rows[0] != rows[1]
            hint = "the two are swapped" if swapped else "give the one that it was trained with"
            raise UserError(
                f"{path} has {own} symbols and {pieces.checkpoint} {row} in its {side} embedding; {hint}"
            )


def _check_units(pieces: Pieces, text: TextOptions) -> None:
    """Compare the codes with the dictionaries."""
    sides = [(pieces.src_dict, text.codes), (pieces.tgt_dict, text.target_codes or text.codes)]
    for dictionary, codes in sides:
        if codes is None:
            continue
        known = _units_of(codes, text)
        loaded = Dictionary.load(dictionary)
        words = [s for i, s in enumerate(loaded.symbols) if not loaded.is_filler(i)]
        units = [word for word in words if len(word.removesuffix(text.separator)) > 1]
        found = sum(unit.removesuffix(text.separator) in known for unit in units)
        if found < LEAST_SHARE * len(units):
            raise UserError(
                f"{codes} does not belong to {dictionary}: {found} of {len(units)} units come from it; give "
                "the codes that the text was segmented with"
            )


def _units_of(codes: Path, text: TextOptions) -> set[str]:
    """Return the units of more than one character of the merges or the SentencePiece model."""
    if text.subwords == "sentencepiece":
        from train_model.data.subwords import SentencePiece

        return set(SentencePiece(codes).pieces())
    merges = [line.strip("\r ").split(" ") for line in read_lines(codes)]
    # fastBPE writes a count after the two symbols
    return {"".join(merge[:2]).removesuffix("</w>") for merge in merges if len(merge) > 1}


def _write(
    folder: Path, pieces: Pieces, loaded: Loaded, text: TextOptions | None, facts: dict[str, str]
) -> None:
    """Write the files and model.yaml into the empty ``folder``."""
    save_checkpoint(folder / "checkpoint.pt", loaded.model, loaded.config, _dtype(loaded.model))
    source, target = pieces.languages
    content: dict[str, Any] = {
        "architecture": loaded.kind,
        "checkpoint": "checkpoint.pt",
        "padding_policy": loaded.config.padding_policy,
    }
    if source and target:
        content |= {"source_language": source, "target_language": target}
    if text is not None:
        joined = pieces.src_dict.read_bytes() == pieces.tgt_dict.read_bytes()
        names = (
            ["dict.txt"] * 2
            if joined
            else [f"dict.{source or 'src'}.txt", f"dict.{target or 'tgt'}.txt"]
        )
        shutil.copyfile(pieces.src_dict, folder / names[0])
        shutil.copyfile(pieces.tgt_dict, folder / names[1])
        content |= {"source_dictionary": names[0], "target_dictionary": names[1]}
        paths = {"source": pieces.src_dict, "target": pieces.tgt_dict}
        digests = {side: Dictionary.load(path).digest() for side, path in paths.items()}
        content["dictionary_sha256"] = digests
        content["special_symbols"] = dict(SPECIAL_IDS)
        text = text.copy_to(folder)
        for codes in {text.codes, text.target_codes} - {None} if text.subwords == "bpe" else ():
            _without_counts(codes)
        content["text"] = text.to_mapping(folder)
    if pieces.test_src and pieces.test_tgt:
        content["test"] = {"source": f"test.{source or 'src'}", "target": f"test.{target or 'tgt'}"}
        shutil.copyfile(pieces.test_src, folder / content["test"]["source"])
        shutil.copyfile(pieces.test_tgt, folder / content["test"]["target"])
        if pieces.valid_src is not None:
            shutil.copyfile(pieces.valid_src, validation_text(folder / content["test"]["source"]))
    content |= facts
    text_of = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=10**6)
    head = "# Written by make import; doc/models.md describes the keys.\n"
    (folder / DESCRIPTION).write_text(head + text_of, encoding="utf-8")


def _without_counts(codes: Path) -> None:
    """Convert fastBPE's merges, which end in counts, to subword-nmt's form, in place."""
    merges = [line.strip("\r ").split(" ") for line in read_lines(codes)]
    if merges and all(len(merge) == 3 and merge[2].isdecimal() for merge in merges):
        lines = ["#version: 0.2", *(" ".join(merge[:2]) for merge in merges)]
        codes.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _dtype(model: nn.Module) -> torch.dtype:
    """Return FP16 if FP16 holds all weights exactly, so that a small checkpoint stays small."""
    weights = (value for value in model.state_dict().values() if value.is_floating_point())
    return torch.float16 if all(w.half().float().equal(w) for w in weights) else torch.float32


@torch.inference_mode()
def _try(folder: ModelFolder) -> None:
    """Translate a sentence with the written folder: the test text's first, or some units.

    Raises:
        UserError: the network gives NaN or infinity, or the dictionary lacks most of the sentence.
    """
    loaded = load_checkpoint(folder.checkpoint)
    config = loaded.config
    words = range(len(SPECIALS), min(len(SPECIALS) + WORDS_TRIED, config.src_vocab))
    row = [BOS, *words, EOS]
    tokenizer = None
    if folder.text is not None:
        tokenizer = Tokenizer.from_files(folder)
        if folder.test_src is not None:
            sentence = next(filter(normalise, read_lines(folder.test_src)), "")
            units = tokenizer.encode(sentence)[1:-1]
            if units.count(UNK) > LEAST_SHARE * len(units):
                raise UserError(
                    f"the dictionary lacks {units.count(UNK)} of the {len(units)} units of the test text's "
                    f"first sentence, {sentence[:40]!r}; is it in another language, or preprocessed?"
                )
            row = [BOS, *units[: config.max_source_positions - 2], EOS]
    row = row[: config.max_source_positions]
    model = loaded.model
    if architecture_of(model).family == "autoregressive":
        options = SearchOptions(beam=1, max_len_b=min(2 * len(row), 64))
        found = search(IncrementalDecoder.of(model), torch.tensor([row[1:]]), options)
        tokens, finite = found.tokens[0, 0], found.counts.all()
    else:
        tokens, scores = (output[0] for output in model(torch.tensor([row])))
        finite = scores.isfinite().all()
    if not finite:
        raise UserError("the network gives NaN or infinite scores; take another checkpoint")
    if tokenizer is not None:
        tokenizer.decode(tokens)


def _parser() -> Parser:
    parser = Parser(prog="python -m train_model.import_model", description=first_line(__doc__))
    add = parser.add_argument
    add(
        "--from",
        dest="source",
        type=path_argument,
        metavar="PATH",
        help="data-bin folder or hub archive",
    )
    add("--like", metavar="MODEL", help="take dictionaries, text and languages of another model")
    add(
        "--checkpoint",
        type=path_argument,
        help="fairseq's .pt, or .safetensors with a model.yaml next to it",
    )
    add("--src-dict", type=path_argument, help="the source's dictionary, dict.*.txt")
    add("--tgt-dict", type=path_argument, help="the target's; default: the source's")
    add(
        "--codes",
        type=path_argument,
        help="merges of subword-nmt, or a SentencePiece model (.model)",
    )
    add("--target-codes", type=path_argument, help="the target's, if it has its own")
    add("--languages", metavar="SRC-TGT", help="such as en-de")
    add("--test-src", type=path_argument, help="test text, one sentence per line")
    add("--test-tgt", type=path_argument, help="its translations")
    add("--name", help="name of the new folder in data_model; default: that of --from, or mine")
    add(
        "--models",
        type=output_folder,
        default=str(DATA) if IN_CHECKOUT else ".",
        help="where the folder is made; default: data_model, or here for an installed package",
    )
    add("--padding-policy", choices=("upstream", "masked"), help="default: the checkpoint's")
    add("--summary", help="what the model does")
    add("--origin", help="where it comes from")
    add("--licence", help="its licence")
    text = parser.add_argument_group("text processing", "see doc/models.md; found where it can be")
    add = text.add_argument
    add("--subwords", choices=CHOICES["subwords"], help="default: what --codes is; none without it")
    add("--separator", help="ends a BPE unit inside a word; default: @@")
    add("--unicode", choices=CHOICES["unicode"], help="normalisation form; default: NFC")
    add("--moses", action=argparse.BooleanOptionalAction, help="Moses' tokenisation")
    add("--aggressive-dashes", action=argparse.BooleanOptionalAction, help="Moses' option -a")
    add("--escape", action=argparse.BooleanOptionalAction, help="the opposite of Moses' -no-escape")
    add("--case", choices=CHOICES["case"], help="default: keep")
    add(
        "--truecase-model",
        type=path_argument,
        help="model of Moses' truecaser, with --case truecase",
    )
    add(
        "--unknown",
        choices=CHOICES["unknown"],
        help="units outside the dictionary; default: refuse",
    )
    return parser


def _check_together(args: argparse.Namespace) -> None:
    """Raise ``UserError`` for a given option that another one leaves without a meaning."""
    if args.truecase_model and args.case != "truecase" and not args.like:
        raise UserError("--truecase-model is for --case truecase; add it, or leave the model out")
    if args.codes and args.subwords == "none":
        raise UserError("--codes are for subwords, and --subwords none has none; leave one out")
    if args.moses is False and (args.aggressive_dashes or args.escape is not None):
        raise UserError(
            "--aggressive-dashes and --escape are for Moses' tokenisation, and --no-moses does without; "
            "leave one out"
        )


def _languages_argument(text: str | None) -> tuple[str, str]:
    if text is None:
        return "", ""
    match = re.fullmatch(r"([A-Za-z_]+)-([A-Za-z_]+)", text)
    if not match:
        raise UserError(f"--languages {text!r} is not SOURCE-TARGET, such as en-de")
    return match[1], match[2]


def _text_options(
    args: argparse.Namespace,
    pieces: Pieces,
    like: ModelFolder | None,
    load: Callable[[Path], Loaded],
) -> tuple[TextOptions | None, str]:
    """Return the text processing: the given options, then another model's, else derived from the pieces.

    Also returns a line for the user on the tokenisation if it was derived, else an empty one.
    """
    names = {field.name for field in dataclasses.fields(TextOptions)}
    given = {
        name: value for name, value in vars(args).items() if name in names and value is not None
    }
    files = {name: getattr(pieces, name) for name in ("codes", "target_codes", "truecase_model")}
    given |= {name: path for name, path in files.items() if path is not None}
    if like is not None and like.text is not None:
        return dataclasses.replace(like.text, **given), ""
    if pieces.src_dict is None and not given:
        return None, ""
    if "subwords" not in given:
        codes = given.get("codes")
        kind = "sentencepiece" if codes is not None and codes.suffix == ".model" else "bpe"
        given["subwords"] = kind if codes is not None else "none"
    if given["subwords"] == "none":  # sentences are given in units, so nothing is tokenised
        return TextOptions(**given), ""
    derived, shown = _tokenisation(pieces, load(pieces.checkpoint).options)
    if args.moses is not None:
        shown = f"as asked; {shown}" if derived else "as asked"
    text = TextOptions(**({} if args.moses is False else derived) | given)
    said = "Moses' tokenisation" if text.moses else "no tokenisation"
    said += " with -a" * text.aggressive_dashes + " with -no-escape" * (not text.escape)
    return text, (
        f"text: {said} ({shown}); others: --[no-]moses, --[no-]aggressive-dashes, --[no-]escape"
    )


def _tokenisation(pieces: Pieces, recorded: argparse.Namespace) -> tuple[dict[str, bool], str]:
    """Return the options of Moses' tokenisation that the pieces show, and what shows them.

    ``recorded`` are the checkpoint's options.
    """
    if getattr(recorded, "tokenizer", None) == "moses":
        derived = {
            "moses": True,
            "aggressive_dashes": getattr(recorded, "moses_no_dash_splits", False) is not True,
            "escape": getattr(recorded, "moses_no_escape", False) is not True,
        }
        return derived, "the checkpoint's options name it"
    dictionaries = {pieces.src_dict, pieces.tgt_dict} - {None}
    marks = marks_in({word for path in dictionaries for word in Dictionary.load(path).symbols})
    if not marks:
        return {}, "neither the checkpoint nor a dictionary shows Moses'"
    derived = dict.fromkeys(marks.keys() - {"no_escape"}, True)
    if "no_escape" in marks:
        derived["escape"] = False
    return derived, f"a dictionary has {' and '.join(dict.fromkeys(marks.values()))}"


def _pieces_of(like: ModelFolder) -> Pieces:
    """Return the pieces of another model, without its checkpoint and codes."""
    pieces = Pieces(src_dict=like.src_dict, tgt_dict=like.tgt_dict, languages=like.languages)
    if not (like.test_src and like.test_src.is_file()):  # a corpus that is not prepared
        return pieces
    valid = validation_text(like.test_src)  # make ptq calibrates with it
    return dataclasses.replace(
        pieces,
        test_src=like.test_src,
        test_tgt=like.test_tgt,
        valid_src=valid if valid.is_file() else None,
    )


def _given(args: argparse.Namespace, languages: tuple[str, str]) -> Pieces:
    """Return the pieces of the command line."""
    names = {field.name for field in dataclasses.fields(Pieces)} - {"languages", "valid_src"}
    return Pieces(**{name: getattr(args, name) for name in names}, languages=languages)


def _check_complete(pieces: Pieces, source: Path | None) -> None:
    """Refuse pieces without a checkpoint, with one side of a test text, or with a missing file."""
    if pieces.checkpoint is None:
        raise UserError(f"{source} has no checkpoint; give one with --checkpoint (CHECKPOINT=)")
    if (pieces.test_src is None) != (pieces.test_tgt is None):
        raise UserError("test text needs both sides; give --test-src and --test-tgt")
    codes = (pieces.codes, pieces.target_codes, pieces.truecase_model)
    for path in (*codes, pieces.test_src, pieces.test_tgt):
        if path is not None and not path.is_file():
            raise UserError(f"there is no file {path}")


def _default_name(source: Path | None) -> str:
    if source is None:
        return "mine"
    stem = source.resolve().name
    for suffix in sorted(ARCHIVES, key=len, reverse=True):
        stem = stem.removesuffix(suffix)
    return stem if NAME.fullmatch(stem) else "mine"


def main(argv: list[str] | None = None) -> None:
    """Command line; see ``--help``."""
    args = _parser().parse_args(argv)
    name = check_name(_default_name(args.source) if args.name is None else args.name)
    if (target := args.models / name).exists():
        raise UserError(f"{target} exists already; remove it, or give another name (NAME=)")
    if args.source is None and args.checkpoint is None:
        raise UserError(
            "there is nothing to import; give --checkpoint or --from (make import CHECKPOINT=)"
        )
    _check_together(args)
    languages = _languages_argument(args.languages)
    like = find_model(args.like) if args.like else None
    load = functools.cache(load_checkpoint)  # it may be large
    with unpacked(args.source) if args.source else nullcontext() as folder:
        found = Pieces() if like is None else _pieces_of(like)
        if folder is not None:
            found = found.updated(pieces_in(folder, languages, args.source, load))
        pieces = found.updated(_given(args, languages))
        _check_complete(pieces, args.source)
        one = pieces.src_dict or pieces.tgt_dict  # a joined dictionary may be given once
        pieces = dataclasses.replace(
            pieces, src_dict=pieces.src_dict or one, tgt_dict=pieces.tgt_dict or one
        )
        text, assumed = _text_options(args, pieces, like, load)
        facts = {"summary": args.summary, "source": args.origin, "licence": args.licence}
        facts["source"] = (
            facts["source"] or f"imported from {(args.source or args.checkpoint).name}"
        )
        facts = {key: value for key, value in facts.items() if value}
        made = import_model(name, pieces, text, facts, args.padding_policy, args.models, load)
    argument = name if args.models == DATA else target.resolve()
    print(
        f"{made.folder}: {made.architecture} ({made.family}); the pieces fit, a sentence went through"
    )
    if assumed:
        print(assumed)
    then = "translate" if made.text is not None else "bench"
    print(
        f"next: make {then} MODEL={argument}" if IN_CHECKOUT else f"next: {then} --model {argument}"
    )


if __name__ == "__main__":
    run(main)
