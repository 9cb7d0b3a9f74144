"""``--arch conv_crf_transformer``: the project's network behind fairseq's model interface."""

import argparse
from typing import Any

import torch
from fairseq import utils
from fairseq.iterative_refinement_generator import DecoderOut
from fairseq.models import BaseFairseqModel, register_model, register_model_architecture
from fairseq.models.nat import NATransformerModel
from torch import Tensor

from train_model.fairseq_plugin.arguments import add_defaults, add_project_arguments
from train_model.fairseq_plugin.starting import network_to_train
from train_model.models.config import NatConfig
from train_model.models.conv_crf_transformer import ConvCrfTransformer, EncoderOut


@register_model("conv_crf_transformer")
class ConvCrfTransformerModel(ConvCrfTransformer, BaseFairseqModel):
    """Trained by ``nat_loss`` or ``glat_loss``, decoded by ``IterativeRefinementGenerator``."""

    allow_length_beam = False
    allow_ensemble = False

    def __init__(self, config: NatConfig):
        super().__init__(config)
        # The generator calls this on the encoder when it refines only some of a batch's sentences further.
        self.encoder.reorder_encoder_out = _reorder

    @staticmethod
    def add_args(parser: argparse.ArgumentParser) -> None:
        """Add the options of fairseq's non-autoregressive Transformer, the convolutions and the CRF."""
        NATransformerModel.add_args(parser)
        for side in ("encoder", "decoder"):
            parser.add_argument(f"--{side}-conv-dim", type=int, metavar="N")
            parser.add_argument(f"--{side}-kernel-size-list", nargs="*", type=int, metavar="N")
            parser.add_argument(f"--{side}-conv-type", choices=["dynamic", "lightweight"])
            parser.add_argument(
                f"--{side}-glu",
                type=utils.eval_bool,
                help="gated linear unit before the convolution",
            )
        parser.add_argument(
            "--conv-linear", action="store_true", help="projections inside the convolution too"
        )
        parser.add_argument("--weight-softmax", type=utils.eval_bool, help="normalise the taps")
        parser.add_argument("--weight-dropout", type=float, metavar="D", help="dropout of the taps")
        parser.add_argument(
            "--input-dropout", type=float, metavar="D", help="dropout before a convolution block"
        )
        parser.add_argument(
            "--crf-lowrank-approx", type=int, metavar="N", help="rank of the transition scores"
        )
        parser.add_argument(
            "--crf-beam-approx", type=int, metavar="N", help="tokens per position in the normaliser"
        )
        parser.add_argument(
            "--word-ins-loss-factor", type=float, metavar="D", help="weight of the word loss"
        )
        add_project_arguments(parser)

    @classmethod
    def build_model(cls, args: argparse.Namespace, task: Any) -> "ConvCrfTransformerModel":
        """Build the network for the task's dictionaries, or load that of ``--start-from``."""
        return network_to_train(cls, NatConfig, args, task)

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor,
        prev_output_tokens: Tensor,
        tgt_tokens: Tensor,
        source: EncoderOut | None = None,
    ) -> dict[str, dict[str, Any]]:
        """Return the inputs of ``nat_loss``; all tokens are [B, S] or [B, T] int64.

        ``source`` is what ``encode`` returned for ``src_tokens``, if it was called already.
        """
        if source is None:
            source = self.encode(src_tokens)
        return self.training_outputs(source, prev_output_tokens, tgt_tokens)

    def max_positions(self) -> tuple[int, int]:
        """Return the longest source and target, in tokens."""
        return self.config.max_source_positions, self.config.max_target_positions

    def forward_encoder(self, encoder_inputs: list[Tensor]) -> EncoderOut:
        """Encode ``[src_tokens, src_lengths]``."""
        return self.encode(encoder_inputs[0])

    def initialize_output_tokens(self, encoder_out: EncoderOut, src_tokens: Tensor) -> DecoderOut:
        """Return an empty canvas as wide as the longest predicted length, at most twice the source."""
        lengths = self.predict_length(encoder_out)
        width = min(int(lengths.max()), self.canvas_width(src_tokens.shape[1]))
        canvas = self.initial_canvas(lengths, width)
        scores = torch.zeros(canvas.shape, device=canvas.device, dtype=encoder_out.x.dtype)
        return DecoderOut(canvas, scores, attn=None, step=0, max_step=0, history=None)

    def forward_decoder(
        self, decoder_out: DecoderOut, encoder_out: EncoderOut, **options: Any
    ) -> DecoderOut:
        """Fill the canvas with the best path."""
        canvas = decoder_out.output_tokens
        tokens, scores = self.choose(self.decode(canvas, encoder_out), canvas)
        history = decoder_out.history
        return decoder_out._replace(
            output_tokens=tokens,
            output_scores=scores.type_as(decoder_out.output_scores),
            history=None if history is None else [*history, tokens.clone()],
        )


def _reorder(encoder_out: EncoderOut, new_order: Tensor) -> EncoderOut:
    return EncoderOut(*(part.index_select(0, new_order.flatten()) for part in encoder_out))


@register_model_architecture("conv_crf_transformer", "conv_crf_transformer")
def base_architecture(args: argparse.Namespace) -> None:
    """Write the defaults of the network into ``args``."""
    add_defaults(args, NatConfig)
