"""Options that make a training of recipe ``demo`` last seconds."""

SMALL = [
    *("encoder_layers=1", "decoder_layers=1", "encoder_embed_dim=16", "decoder_embed_dim=16"),
    *("encoder_ffn_embed_dim=16", "decoder_ffn_embed_dim=16", "crf_lowrank_approx=4"),
    *("encoder_kernel_size_list=[3]", "decoder_kernel_size_list=[3]", "crf_beam_approx=8"),
    *("encoder_attention_heads=2", "decoder_attention_heads=2", "batch_size=16", "num_workers=0"),
    *("warmup_updates=2", "total_num_update=20", "cpu=true"),
]
