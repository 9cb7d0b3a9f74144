"""Small networks for tests: options of both families, and Lite Transformers with random weights."""

import argparse
from typing import Any

import torch
from torch import nn

from train_model.models.architectures import ARCHITECTURES
from train_model.models.config import NatConfig
from train_model.models.conv_crf_transformer import ConvCrfTransformer
from train_model.models.multibranch_config import MultibranchConfig
from train_model.models.transformer_multibranch_v2 import TransformerMultibranch

# The public checkpoint's architecture with small sizes, as fairseq's options.
ONE_PASS: dict[str, Any] = {
    "encoder_embed_dim": 24,
    "encoder_ffn_embed_dim": 40,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_kernel_size_list": (3, 6),
    "decoder_kernel_size_list": (1, 5),
    "encoder_learned_pos": True,
    "decoder_learned_pos": True,
    "conv_linear": True,
    "src_embedding_copy": True,
    "max_source_positions": 40,
    "max_target_positions": 50,
    "crf_lowrank_approx": 4,
    "crf_beam_approx": 6,
}


def one_pass(**changes: Any) -> NatConfig:
    """Return the configuration of ``ONE_PASS`` with other options, for masked padding by default."""
    own = {"src_vocab": 90, "tgt_vocab": 80, "padding_policy": "masked"}
    return NatConfig(**ONE_PASS | own | changes)


def step_by_step(width: int = 32, **changes: Any) -> MultibranchConfig:
    """A Lite Transformer of ``width`` channels: attention gets one half, convolution the other."""
    branches = (f"attn:1:{width // 2}:2", f"dynamic:default:{width // 2}:4")
    options = {
        "src_vocab": 40,
        "tgt_vocab": 48,
        "encoder_branch_type": branches,
        "decoder_branch_type": branches,
        "encoder_embed_dim": width,
        "encoder_ffn_embed_dim": width,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "decoder_attention_heads": 2,
        "encoder_kernel_size_list": (3, 7),
        "decoder_kernel_size_list": (3, 7),
        "conv_linear": True,
        "max_source_positions": 40,
        "max_target_positions": 40,
        "padding_policy": "masked",
    }
    return MultibranchConfig(**options | changes)


# Every kind of branch, and every other option that changes the graphs.
_ATTENTION, _DYNAMIC, _LIGHT = "attn:1:16:2", "dynamic:default:16:4", "lightweight:default:16:4"
VARIANTS = {
    "dynamic": {
        "encoder_branch_type": (_ATTENTION, _DYNAMIC),
        "decoder_branch_type": (_ATTENTION, _DYNAMIC),
    },
    "lightweight": {  # as mit-han-lab's IWSLT14 recipes
        "encoder_branch_type": (_ATTENTION, _LIGHT),
        "decoder_branch_type": (_ATTENTION, _LIGHT),
    },
    "bare lightweight": {
        "encoder_branch_type": (_LIGHT, _ATTENTION),
        "decoder_branch_type": (_LIGHT, _ATTENTION),
        "conv_linear": False,
        "weight_softmax": False,
        "encoder_glu": False,
        "decoder_glu": False,
    },
    "three branches": {
        "encoder_branch_type": ("attn:1:8:2", "dynamic:5:8:2", _LIGHT),
        "decoder_branch_type": (_LIGHT, "dynamic:5:8:2", "attn:1:8:2"),
        "encoder_normalize_before": True,
        "decoder_normalize_before": True,
        "encoder_learned_pos": True,
        "decoder_learned_pos": True,
    },
    "attention alone": {
        "encoder_branch_type": ("attn:1:32:4",),
        "decoder_branch_type": ("attn:1:32:4",),
        "conv_linear": False,
        "padding_policy": "upstream",
    },
    "convolution alone": {
        "encoder_branch_type": ("dynamic:default:32:4",),
        "decoder_branch_type": ("lightweight:1:16:4", "dynamic:default:16:4"),
        "src_vocab": 48,
        "share_all_embeddings": True,
    },
}


def network(variant: str) -> TransformerMultibranch:
    """The network of a name in ``VARIANTS``, see :func:`follows_its_source`."""
    with torch.random.fork_rng(devices=[]):
        config = step_by_step(**{"encoder_ffn_embed_dim": 48} | VARIANTS[variant])
        return follows_its_source(config)


def follows_its_source(config: MultibranchConfig) -> TransformerMultibranch:
    """Return a network with random weights, small enough for its output to depend on its source."""
    torch.manual_seed(5)
    return _with_small_weights(TransformerMultibranch(config))


@torch.no_grad()
def _with_small_weights(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.add_(torch.randn_like(parameter) / 10)
        else:
            torch.nn.init.normal_(parameter, std=0.15)
    return model.eval()


def small(**options) -> ConvCrfTransformer:
    """A one-pass network of 40 words with random weights."""
    torch.manual_seed(0)
    sizes = {
        "src_vocab": 40,
        "tgt_vocab": 40,
        "encoder_ffn_embed_dim": 32,
        "encoder_attention_heads": 3,
        "decoder_attention_heads": 3,
        "encoder_kernel_size_list": (3, 7),
        "decoder_kernel_size_list": (4, 7),
        "max_source_positions": 20,
        "max_target_positions": 20,
        "crf_beam_approx": 8,
    }
    model = ConvCrfTransformer(one_pass(**sizes | options))
    for parameter in model.parameters():
        if parameter.dim() == 1:  # biases start at zero, which would hide the padding's leak
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


# Options beyond the common ones of ``of_architecture``.
_OWN: dict[str, dict[str, Any]] = {
    "cmlm_transformer": {"share_all_embeddings": False, "iter_decode_max_iter": 4},
    "conv_crf_transformer": {"conv_linear": True, "src_embedding_copy": True, "crf_beam_approx": 6},
    "lightconv": {"encoder_kernel_size_list": (3, 7), "decoder_kernel_size_list": (3, 5)},
    "iterative_nonautoregressive_transformer": {"iter_decode_max_iter": 4},
    "nacrf_transformer": {"crf_beam_approx": 6},
    "nonautoregressive_transformer": {"src_embedding_copy": True},
    "transformer": {"decoder_normalize_before": True, "encoder_normalize_before": True},
    "transformer_multibranch_v2": VARIANTS["dynamic"],
}


def of_architecture(
    name: str, src_vocab: int = 40, tgt_vocab: int = 48, **changes: Any
) -> nn.Module:
    """A small random network of an entry in ``ARCHITECTURES``; its scores follow its source."""
    options = {
        "encoder_embed_dim": 32,
        "encoder_ffn_embed_dim": 48,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "max_source_positions": 40,
        "max_target_positions": 48,
    }
    entry = ARCHITECTURES[name]
    args = argparse.Namespace(arch=name, **options | _OWN[name] | changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return _with_small_weights(entry.build(entry.configure(args, src_vocab, tgt_vocab)))
