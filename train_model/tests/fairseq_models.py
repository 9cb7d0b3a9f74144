"""fairseq's own networks, small and with random weights, for tests that compare with them."""

import argparse
from types import SimpleNamespace

import torch

VOCAB = 48
SMALL = {
    "encoder_embed_dim": 32,
    "decoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 48,
    "decoder_ffn_embed_dim": 40,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "max_source_positions": 64,
    "max_target_positions": 64,
}
COMMON = {  # defaults of fairseq's parser
    "dropout": 0.1,
    "encoder_conv_type": "dynamic",
    "decoder_conv_type": "dynamic",
    "weight_softmax": True,
}
KERNELS = {"encoder_kernel_size_list": [3, 7], "decoder_kernel_size_list": [1, 5]}
PRE_NORM = {"encoder_normalize_before": True, "decoder_normalize_before": True}


def fairseq_model(arch: str, changes: dict):
    """fairseq's network with the defaults of ``arch``, and the arguments that it was built from."""
    from fairseq.data import Dictionary
    from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY

    dictionary = Dictionary()
    for word in range(4, VOCAB):
        dictionary.add_symbol(str(word))
    args = argparse.Namespace(**{"arch": arch} | COMMON | SMALL | changes)
    ARCH_CONFIG_REGISTRY[arch](args)
    task = SimpleNamespace(source_dictionary=dictionary, target_dictionary=dictionary)
    torch.manual_seed(3)
    model = ARCH_MODEL_REGISTRY[arch].build_model(args, task).eval()
    # biases and scales start at 0 and 1, which would hide errors
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, mean=float(parameter.mean() > 0.5), std=0.3)
    if hasattr(model.decoder, "embed_length"):  # all zeros, which would make every target empty
        first = 125 if model.decoder.pred_length_offset else 6
        torch.nn.init.normal_(model.decoder.embed_length.weight[first : first + 10])
    return model, args, dictionary
