"""CNN / Daily Mail summaries, from text that is there already.

The articles and highlights may not be passed on, so they are not fetched: put them, tokenised and one a
line, into data_model/cnndm as train, valid and test, ``.source`` and ``.target``. Both sides share BPE
merges and a dictionary.
"""

from collections.abc import Iterator
from pathlib import Path

from train_model.cli import UserError
from train_model.data.corpus import SPLITS
from train_model.data.prepare import claim, finish, read_lines, step
from train_model.data.raw_text import learn_joint_bpe
from train_model.data.tokenizer import load_bpe

SOURCE = Path("data_model/cnndm")
SIDES = ("source", "target")
MERGES = 30_000


def prepare_cnndm(folder: Path, source: Path = SOURCE, merges: int = MERGES) -> Path:
    """Prepare the corpus under ``folder`` and return the folder that fairseq reads.

    Raises:
        UserError: a text file is missing.
    """
    names = [f"{split}.{side}" for split in SPLITS for side in SIDES]
    for name in names:
        if not (source / name).is_file():
            raise UserError(f"no {source / name}; put the tokenised text there, one article a line")
    claim(folder, {"source": str(source.resolve()), "merges": merges})
    codes = folder / "bpe.codes"
    step([codes], lambda: learn_joint_bpe(source, SIDES, merges, codes))
    bpe = load_bpe(codes)

    def units(split: str, side: str) -> Iterator[list[str]]:
        return (bpe.segment(line).split() for line in read_lines(source / f"{split}.{side}"))

    return finish(folder, units, SIDES)
