"""Prepare a corpus for training: text, BPE codes, dictionary, and the binary files fairseq reads.

    python -m train_model.data.prepare --corpus demo

Writes build/data/<corpus>. A stopped run continues where it stopped; a finished corpus is not changed.
``train_model.data.corpora`` lists the corpora.
"""

from train_model.cli import Parser, first_line, path_argument, run
from train_model.data.corpora import CORPORA, prepare


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=first_line(__doc__))
    parser.add_argument(
        "--corpus", default="demo", help=f"one of: {', '.join(CORPORA)} (default demo)"
    )
    parser.add_argument("--build-dir", type=path_argument, default="build", help="default build")
    options = parser.parse_args(argv)
    print(f"ready: {prepare(options.corpus, options.build_dir)}")


if __name__ == "__main__":
    run(main)
