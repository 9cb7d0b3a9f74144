"""Small Lite Transformers with random weights: every kind of branch, and what else changes the graphs."""

import torch

from train_model.models.multibranch_config import MultibranchConfig
from train_model.models.transformer_multibranch_v2 import TransformerMultibranch

_SIZES = {
    "src_vocab": 40,
    "tgt_vocab": 48,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 48,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "encoder_kernel_size_list": (3, 7),
    "decoder_kernel_size_list": (3, 7),
    "max_source_positions": 40,
    "max_target_positions": 40,
    "padding_policy": "masked",
}
_ATTENTION, _DYNAMIC, _LIGHT = "attn:1:16:2", "dynamic:default:16:4", "lightweight:default:16:4"
VARIANTS = {
    "dynamic": {
        "encoder_branch_type": (_ATTENTION, _DYNAMIC),
        "decoder_branch_type": (_ATTENTION, _DYNAMIC),
        "conv_linear": True,
    },
    "lightweight": {  # as mit-han-lab's IWSLT14 recipes
        "encoder_branch_type": (_ATTENTION, _LIGHT),
        "decoder_branch_type": (_ATTENTION, _LIGHT),
        "conv_linear": True,
    },
    "bare lightweight": {
        "encoder_branch_type": (_LIGHT, _ATTENTION),
        "decoder_branch_type": (_LIGHT, _ATTENTION),
        "weight_softmax": False,
        "encoder_glu": False,
        "decoder_glu": False,
    },
    "three branches": {
        "encoder_branch_type": ("attn:1:8:2", "dynamic:5:8:2", _LIGHT),
        "decoder_branch_type": (_LIGHT, "dynamic:5:8:2", "attn:1:8:2"),
        "conv_linear": True,
        "encoder_normalize_before": True,
        "decoder_normalize_before": True,
        "encoder_learned_pos": True,
        "decoder_learned_pos": True,
    },
    "attention alone": {
        "encoder_branch_type": ("attn:1:32:4",),
        "decoder_branch_type": ("attn:1:32:4",),
        "padding_policy": "upstream",
    },
    "convolution alone": {
        "encoder_branch_type": ("dynamic:default:32:4",),
        "decoder_branch_type": ("lightweight:1:16:4", "dynamic:default:16:4"),
        "conv_linear": True,
        "src_vocab": 48,
        "share_all_embeddings": True,
    },
}


def network(variant: str) -> TransformerMultibranch:
    """The network of a name in ``VARIANTS``, its weights so small that what it says follows its source."""
    config = MultibranchConfig(**_SIZES | VARIANTS[variant])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = TransformerMultibranch(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(torch.randn_like(parameter) / 10)
                else:
                    torch.nn.init.normal_(parameter, std=0.15)
    return model
