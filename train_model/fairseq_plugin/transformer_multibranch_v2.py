"""``--arch transformer_multibranch_v2``: the project's Lite Transformer behind fairseq's interface.

Trained with ``--task translation --criterion label_smoothed_cross_entropy`` and decoded by fairseq's
``SequenceGenerator``, one token at a time.
"""

import argparse
from typing import Any

import torch
from fairseq import utils
from fairseq.models import (
    BaseFairseqModel,
    FairseqIncrementalDecoder,
    register_model,
    register_model_architecture,
)
from torch import Tensor, nn

from train_model.fairseq_plugin.arguments import add_defaults, add_project_arguments
from train_model.fairseq_plugin.starting import network_to_train
from train_model.models.autoregressive import EncoderOut, Source
from train_model.models.multibranch_config import MultibranchConfig
from train_model.models.transformer_multibranch_v2 import Decoder, Encoder, TransformerMultibranch

# The state of one-step decoding grows by this number of tokens whenever it is full.
_ROOM = 32


class _IncrementalDecoder(FairseqIncrementalDecoder):
    """fairseq's base class without a dictionary, which nothing reads."""

    def __init__(self) -> None:
        super().__init__(dictionary=None)


class FairseqEncoder(Encoder):
    """The encoder as ``SequenceGenerator`` calls it."""

    def forward_torchscript(self, net_input: dict[str, Tensor]) -> EncoderOut:
        """Encode the batch's ``src_tokens``."""
        return self(net_input["src_tokens"])

    def reorder_encoder_out(self, encoder_out: EncoderOut, new_order: Tensor) -> EncoderOut:
        """Return the sentences ``new_order``; a sentence may occur several times."""
        return EncoderOut(*(part.index_select(0, new_order) for part in encoder_out))


class FairseqDecoder(Decoder, _IncrementalDecoder):
    """The decoder as criteria and ``SequenceGenerator`` call it."""

    def forward(
        self,
        prev_output_tokens: Tensor,
        encoder_out: EncoderOut,
        incremental_state: dict[str, Any] | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        """Return logits [B, T, V], or [B, 1, V] of the last token if there is an incremental state."""
        if incremental_state is None:
            return super().forward(prev_output_tokens, encoder_out), None
        rows, length = prev_output_tokens.shape
        if "source" not in incremental_state:
            incremental_state["source"] = self.project_source(encoder_out)
            incremental_state["state"] = {}
        state = self._with_room(incremental_state["state"], rows, length)
        last = prev_output_tokens[:, -1:]
        logprobs, incremental_state["state"] = self.step(
            last,
            torch.zeros_like(last),
            torch.tensor(length - 1, device=last.device),
            incremental_state["source"],
            state,
        )
        return logprobs, None  # fairseq normalises them again, which changes nothing

    def _with_room(self, state: dict[str, Tensor], rows: int, length: int) -> dict[str, Tensor]:
        shapes = self.state_shapes(rows, -(-length // _ROOM) * _ROOM)
        if all(name in state and state[name].shape == shape for name, shape in shapes.items()):
            return state
        wider = {name: self.embed_tokens.weight.new_zeros(shape) for name, shape in shapes.items()}
        for name, old in state.items():
            wider[name][:, :, : old.shape[2]] = old
        return wider

    def reorder_incremental_state_scripting(
        self, incremental_state: dict[str, Any], new_order: Tensor
    ) -> None:
        """Keep the hypotheses ``new_order``, and their sources."""
        incremental_state["state"] = {
            name: tensor.index_select(0, new_order)
            for name, tensor in incremental_state["state"].items()
        }
        mask, keys, values = incremental_state["source"]
        incremental_state["source"] = Source(
            mask.index_select(0, new_order),
            [key.index_select(0, new_order) for key in keys],
            [value.index_select(0, new_order) for value in values],
        )


@register_model("transformer_multibranch_v2")
class TransformerMultibranchModel(TransformerMultibranch, BaseFairseqModel):
    """The whole network as fairseq trains it."""

    encoder_type = FairseqEncoder
    decoder_type = FairseqDecoder

    @staticmethod
    def add_args(parser: argparse.ArgumentParser) -> None:
        """Add those of mit-han-lab's options that change the network."""
        for side in ("encoder", "decoder"):
            parser.add_argument(
                f"--{side}-branch-type",
                nargs="+",
                metavar="BRANCH",
                help="kind:kernel:channels:heads with the kind attn, dynamic or lightweight",
            )
            parser.add_argument(f"--{side}-kernel-size-list", nargs="*", type=int, metavar="N")
            parser.add_argument(
                f"--{side}-glu", type=utils.eval_bool, help="gated linear unit in dynamic branches"
            )
            parser.add_argument(f"--{side}-embed-dim", type=int, metavar="N")
            parser.add_argument(f"--{side}-ffn-embed-dim", type=int, metavar="N")
            parser.add_argument(f"--{side}-layers", type=int, metavar="N")
            parser.add_argument(f"--{side}-learned-pos", action="store_true")
            parser.add_argument(f"--{side}-normalize-before", action="store_true")
        parser.add_argument(
            "--decoder-attention-heads",
            type=int,
            metavar="N",
            help="heads of the attention to the source",
        )
        parser.add_argument(
            "--conv-linear", action="store_true", help="projections around the convolution"
        )
        parser.add_argument("--weight-softmax", type=utils.eval_bool, help="normalise the taps")
        parser.add_argument(
            "--share-all-embeddings",
            action="store_true",
            help="share the embeddings of encoder, decoder and output",
        )
        parser.add_argument(
            "--share-decoder-input-output-embed",
            action="store_true",
            help="share the embeddings of decoder and output",
        )
        for name in ("dropout", "attention-dropout", "activation-dropout", "weight-dropout"):
            parser.add_argument(f"--{name}", type=float, metavar="D")
        parser.add_argument(
            "--ffn-init-ratio",
            type=float,
            metavar="N",
            help="start the weights of the narrow FFN as those of one N times as wide as the embedding",
        )
        add_project_arguments(parser)

    @classmethod
    def build_model(cls, args: argparse.Namespace, task: Any) -> "TransformerMultibranchModel":
        """Build the network for the task's dictionaries, with random weights or those of ``--start-from``."""
        model = network_to_train(cls, MultibranchConfig, args, task)
        if getattr(args, "ffn_init_ratio", None) and not getattr(args, "start_from", None):
            for layer in [*model.encoder.layers, *model.decoder.layers]:
                _widen_init(layer.fc1.weight, args.ffn_init_ratio)
                _widen_init(layer.fc2.weight, args.ffn_init_ratio)
        return model

    def forward(
        self, src_tokens: Tensor, src_lengths: Tensor, prev_output_tokens: Tensor
    ) -> tuple[Tensor, None]:
        """Return the logits [B, T, V] by teacher forcing, as criteria expect them."""
        return self.decoder(prev_output_tokens, self.encode(src_tokens))

    def max_positions(self) -> tuple[int, int]:
        """Return the longest source and target, in tokens."""
        return self.config.max_source_positions, self.config.max_target_positions

    def max_decoder_positions(self) -> int:
        """Return the longest target, in tokens."""
        return self.config.max_target_positions


def _widen_init(weight: Tensor, ratio: float) -> None:
    """Initialise ``weight`` by Xavier's uniform rule, with ``ratio`` times its inputs as outputs."""
    bound = (6.0 / ((1 + ratio) * weight.shape[1])) ** 0.5
    nn.init.uniform_(weight, -bound, bound)


@register_model_architecture("transformer_multibranch_v2", "transformer_multibranch_v2")
def base_architecture(args: argparse.Namespace) -> None:
    """Write the defaults of the network into ``args``."""
    add_defaults(args, MultibranchConfig)
