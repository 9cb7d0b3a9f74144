"""The models that ``MODEL=`` can name, and where their files are."""

import dataclasses
from pathlib import Path

import torch

from train_model.cli import UserError
from train_model.models.checkpoint import save_checkpoint
from train_model.models.config import NatConfig
from train_model.models.conv_crf_transformer import ConvCrfTransformer

_DATA = Path(__file__).parents[2] / "data_model"

# The public checkpoint's network: WMT16 En-De with a joined dictionary of 32,764 words and 4 specials.
WMT16 = NatConfig(
    src_vocab=32768,
    tgt_vocab=32768,
    encoder_layers=6,
    encoder_kernel_size_list=(3, 5, 5, 7, 15, 15),
    decoder_kernel_size_list=(3, 5, 5, 7, 15, 15),
    encoder_learned_pos=True,
    decoder_learned_pos=True,
    conv_linear=True,
    src_embedding_copy=True,
    max_source_positions=254,
    max_target_positions=254,
    crf_beam_approx=32,
    attention_dropout=0.08,
    weight_dropout=0.08,
    label_smoothing=0.1,
)


@dataclasses.dataclass(frozen=True)
class ModelFiles:
    """A model's files; those of text are None for a model without any."""

    name: str
    checkpoint: Path
    src_dict: Path | None = None
    tgt_dict: Path | None = None
    bpe_codes: Path | None = None
    test_src: Path | None = None
    test_tgt: Path | None = None
    autoregressive: bool = False


def model_files(name: str, build_dir: str | Path = "build") -> ModelFiles:
    """The files of the model ``name``; ``wmt16-random`` is made on the first call.

    Raises:
        UserError: there is no such model, or it has to be downloaded first.
    """
    if name == "wmt16-random":
        return _random_wmt16(Path(build_dir))
    if name == "demo-ar":
        return _demo_ar(Path(build_dir))
    if name not in ("demo", "wmt16"):
        raise UserError(f"no model {name!r}; MODEL is demo, demo-ar, wmt16 or wmt16-random")
    folder = _DATA / name
    files = ModelFiles(
        name=name,
        checkpoint=folder / ("checkpoint.pt" if name == "demo" else "checkpoint_last.pt"),
        src_dict=folder / "dict.en.txt",
        tgt_dict=folder / "dict.de.txt",
        bpe_codes=folder / "bpe.codes",
        test_src=folder / "test.en",
        test_tgt=folder / "test.de",
    )
    if not files.checkpoint.exists():
        remedy = "make download" if name == "wmt16" else "git checkout data_model/demo"
        raise UserError(f"model {name} is not here: {files.checkpoint} is missing; run `{remedy}`")
    return files


def quantized_checkpoint(name: str, build_dir: str | Path = "build") -> Path | None:
    """The model's checkpoint in INT8: the fine-tuned one, else the calibrated one, else None."""
    made = (Path(build_dir) / f"{name}-{how}" / "checkpoint.pt" for how in ("qat", "ptq"))
    return next((path for path in made if path.exists()), None)


def _demo_ar(build_dir: Path) -> ModelFiles:
    """The Lite Transformer of recipe demo-ar: the one trained here, or else the committed one."""
    trained, folder = build_dir / "demo-ar" / "checkpoint.pt", _DATA / "demo"
    checkpoint = trained if trained.exists() else folder / "checkpoint-ar.pt"
    if not checkpoint.exists():
        raise UserError(
            f"model demo-ar is not here: {trained} is missing; run `make train RECIPE=demo-ar`"
        )
    demo = model_files("demo", build_dir)
    return dataclasses.replace(demo, name="demo-ar", checkpoint=checkpoint, autoregressive=True)


def _random_wmt16(build_dir: Path) -> ModelFiles:
    """The public checkpoint's architecture with seeded random weights, for speed and size work."""
    path = build_dir / "wmt16-random" / "checkpoint.pt"
    if not path.exists():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            model = ConvCrfTransformer(WMT16)
        save_checkpoint(path, model, WMT16)
    return ModelFiles(name="wmt16-random", checkpoint=path)
