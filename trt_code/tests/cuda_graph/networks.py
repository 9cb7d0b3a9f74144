"""Networks for the CUDA-graph runner."""

from train_model.tests.networks import small


def model(**options):
    """A network wide enough for every kernel of the runner."""
    wide = {"encoder_embed_dim": 64, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
    return small(**wide | options)


# The sizes that the fused stack's kernel supports: heads of 64 channels, 128 inner channels per head.
ONE_KERNEL = {
    "encoder_embed_dim": 128,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_embed_dim": 256,
}
