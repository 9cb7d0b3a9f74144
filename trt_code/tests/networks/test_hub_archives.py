"""Archives as fairseq's hub publishes them for ``lightconv`` import as they are, and translate as in fairseq.

The published archives cannot be downloaded here. These have their layout (``model.pt``, ``dict.*.txt``,
``bpecodes``) and their options, in a small width. fairseq makes them and translates with its hub interface.
"""

import argparse
import shutil
import tarfile
from pathlib import Path

import pytest
import torch

from train_model import fairseq_compat, import_model
from train_model.tests.model_pieces import write_pieces
from trt_code import translate

pytestmark = pytest.mark.fairseq
DYNAMIC = {"encoder_conv_type": "dynamic", "decoder_conv_type": "dynamic"}
LIGHT = {"encoder_conv_type": "lightweight", "decoder_conv_type": "lightweight"}
GLU = {"encoder_glu": True, "decoder_glu": True}
NO_GLU = {"encoder_glu": False, "decoder_glu": False}
JOINED = {"share_all_embeddings": True}
# Architecture, languages and options of each archive in ``LightConvModel.hub_models``.
PUBLISHED = {
    "iwslt14.de-en.lightconv": ("lightconv_iwslt_de_en", "de-en", LIGHT | NO_GLU),
    "wmt16.en-de.joined-dict.dynamicconv-glu": (
        "lightconv_wmt_en_de_big",
        "en-de",
        DYNAMIC | GLU | JOINED,
    ),
    "wmt14.en-fr.joined-dict.lightconv-glu": (
        "lightconv_wmt_en_fr_big",
        "en-fr",
        LIGHT | GLU | JOINED,
    ),
    "wmt17.zh-en.dynamicconv-glu": ("lightconv_wmt_zh_en_big", "zh-en", DYNAMIC | GLU),
}
KERNELS = {
    "encoder_kernel_size_list": [3, 7, 15, 31, 31, 31, 31],
    "decoder_kernel_size_list": [3, 7, 15, 31, 31, 31],
}
SMALL = {
    "encoder_embed_dim": 32,
    "decoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 32,
    "decoder_ffn_embed_dim": 32,
    "max_source_positions": 40,
    "max_target_positions": 24,
}
SENTENCES = ["ab c", "ad-ae: it's (af) & b", "a  b ab aa"]


def write_archive(name: str, folder: Path) -> Path:
    """Write an unpacked archive with a random network of fairseq's; return its folder."""
    from fairseq.data import Dictionary
    from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY

    arch, languages, options = PUBLISHED[name]
    source, target = languages.split("-")
    pieces = write_pieces(folder / "pieces")
    archive = folder / name
    archive.mkdir()
    joined = "share_all_embeddings" in options
    for piece in ("src-dict", "tgt-dict"):  # the escapes of Moses' option -a, which WMT's text has
        lines = pieces[piece].read_text().splitlines(keepends=True)
        pieces[piece].write_text("".join([*lines[:-3], "&quot; 1\n&apos; 1\n@-@ 1\n"]))
    shutil.copy(pieces["src-dict"], archive / f"dict.{source}.txt")
    shutil.copy(pieces["src-dict" if joined else "tgt-dict"], archive / f"dict.{target}.txt")
    shutil.copy(pieces["codes"], archive / "bpecodes")
    given = {"arch": arch, "task": "translation", "source_lang": source, "target_lang": target}
    args = argparse.Namespace(
        **given | {"dropout": 0.1, "weight_softmax": True} | KERNELS | SMALL | options
    )
    ARCH_CONFIG_REGISTRY[arch](args)
    task = argparse.Namespace(
        source_dictionary=Dictionary.load(str(archive / f"dict.{source}.txt")),
        target_dictionary=Dictionary.load(str(archive / f"dict.{target}.txt")),
    )
    torch.manual_seed(11)
    model = ARCH_MODEL_REGISTRY[arch].build_model(args, task)
    with torch.no_grad():
        for parameter in model.parameters():  # so that the translation depends on the source
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) / 10)
            else:
                torch.nn.init.normal_(parameter, std=0.3)
    history = [{"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}}]
    state = {"args": args, "model": model.state_dict(), "optimizer_history": history}
    state["extra_state"] = {"epoch": 1, "train_iterator": {"epoch": 1}, "val_loss": 1.0}
    state["optimizer_history"][0]["num_updates"] = 1
    torch.save(state, archive / "model.pt")
    return archive


def without_unknown(text: str) -> str:
    """Leave out the unknown tokens, which fairseq prints and this project does not."""
    return " ".join(word for word in text.split() if word != "<unk>")


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_archive_translates_as_fairseqs_hub(name, tmp_path, capsys):
    pytest.importorskip("subword_nmt")
    pytest.importorskip("fairseq_cli", reason="fairseq is not installed")
    fairseq_compat.prepare()
    from fairseq.models.lightconv import LightConvModel

    archive = write_archive(name, tmp_path)
    hub = LightConvModel.from_pretrained(
        str(archive), "model.pt", ".", tokenizer="moses", bpe="subword_nmt"
    )
    expected = [without_unknown(text) for text in hub.translate(SENTENCES, beam=5)]
    packed = tmp_path / f"{name}.tar.gz"
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(archive, name)
    given = ["--from", str(packed), "--name", "hub", "--unknown", "keep"]
    import_model.main([*given, "--models", str(tmp_path / "models")])
    assert (
        "Moses' tokenisation with -a (a dictionary has &quot; and @-@)" in capsys.readouterr().out
    )
    model = str(tmp_path / "models" / "hub")
    options = ["--device", "cpu", "--runner", "torch", "--beam", "5"]
    translate.main(["--model", model, "--build-dir", str(tmp_path), *options, "--", *SENTENCES])
    assert capsys.readouterr().out.splitlines() == expected
    assert len(set(expected)) > 1
