"""Writes an autoregressive network as a native program: the encoder, and one step of the decoder."""

from train_model.cli import UserError
from train_model.models.autoregressive import AutoregressiveTranslator, Decoder, Encoder, Layer
from train_model.models.conv_block import ConvBlock
from train_model.models.layers import MultiheadAttention
from train_model.models.multibranch import MultiBranch
from trt_code.native.blocks import Embedded, SourceKeys, Writer
from trt_code.native.program import Program, Register


def write(program: Program, model: AutoregressiveTranslator) -> None:
    """Add the network to ``program``.

    Raises:
        UserError: a block of the network has no native form.
    """
    source = Writer(program, "source", padding_leaks=model.config.padding_leaks)
    activation = model.config.activation_fn
    encoded = encoder(source, model.encoder, activation)
    step = Writer(program, "target", past=True)
    x = embed(step, model.decoder)
    program.add("logits", decoder(source, encoded, step, model.decoder, x, activation))


def encoder(source: Writer, module: Encoder, activation: str) -> Register:
    """Write an encoder; return its output. ``activation`` is that of the feed-forward blocks."""
    x = embed(source, module)
    for layer in module.layers:
        mixing(source, layer, x)
        feed_forward(source, layer, x, activation)
    final_norm(source, module, x)
    return x


def decoder(
    source: Writer,
    encoded: Register,
    target: Writer,
    module: Decoder,
    x: Register,
    activation: str,
) -> Register:
    """Write a decoder from its first layer's input ``x`` on; return the scores of all tokens."""
    keys = SourceKeys(source, encoded, [layer.encoder_attn for layer in module.layers])
    for index, layer in enumerate(module.layers):
        mixing(target, layer, x)
        target.residual(
            *(layer.encoder_attn_layer_norm, x, layer.normalize_before),
            lambda x, y, index=index: keys.attend(target, index, x, y),
        )
        feed_forward(target, layer, x, activation)
    final_norm(target, module, x)
    logits = target.register("logits", module.output_projection.out_features)
    target.linear(x, module.output_projection, logits)
    return logits


def embed(writer: Writer, stack: Encoder | Decoder) -> Register:
    """Write the input of the first layer."""
    x = writer.register("x", stack.embed_tokens.embedding_dim)
    writer.embed(stack.embed_tokens, stack.embed_scale, stack.embed_positions, x)
    if stack.layernorm_embedding is not None:
        writer.norm(stack.layernorm_embedding, x, x)
    return x


def mixing(writer: Writer, layer: Layer, x: Register) -> None:
    """Write the mixing block of a layer, with its norm and residual."""

    def mix(x: Register, y: Register) -> None:
        if isinstance(layer, ConvBlock):
            convolution_block(writer, layer, x, y)
        elif isinstance(layer.self_attn, MultiBranch):
            _branches(writer, layer.self_attn, x, y)
        elif isinstance(layer.self_attn, MultiheadAttention):
            writer.self_attention(layer.self_attn, x, y)
        else:
            raise UserError(f"{type(layer).__name__} has no native form")

    writer.residual(layer.mixing_norm, x, layer.normalize_before, mix)


def convolution_block(
    writer: Writer, layer: ConvBlock, x: Register, y: Register, embedded: Embedded | None = None
) -> None:
    """Write a block of linear layer, gate, convolution and linear layer.

    Args:
        embedded: what ``x`` has, if it is an embedding.
    """
    inputs, inner = writer.inputs(layer.conv.width), layer.conv.linear1
    if inner is None:
        writer.gated(x, layer.linear1, layer.glu, inputs, embedded=embedded)
    else:
        between = writer.register("projected", layer.conv.width)
        writer.gated(x, layer.linear1, layer.glu, between, past=False, embedded=embedded)
        writer.gated(between, inner, layer.conv.glu, inputs)
    convolved = writer.register("block", layer.conv.width)
    writer.convolution(layer.conv, inputs, convolved)
    writer.linear(convolved, layer.linear2, y)


def _branches(writer: Writer, module: MultiBranch, x: Register, y: Register) -> None:
    column = 0
    for branch, width in zip(module.branches, module.widths, strict=True):
        if isinstance(branch, MultiheadAttention):
            writer.self_attention(branch, x, y, column)
        else:
            inputs = writer.inputs(width)
            if branch.linear1 is None:
                writer.copy(x, column, inputs)
            else:
                writer.gated(x, branch.linear1, branch.glu, inputs, in_column=column)
            writer.convolution(branch, inputs, y, column)
        column += width


def feed_forward(writer: Writer, layer: Layer, x: Register, activation: str) -> None:
    """Write the feed-forward block of a layer, with its norm and residual."""
    writer.residual(
        *(layer.ffn_norm, x, layer.normalize_before),
        lambda x, y: writer.feed_forward(layer.fc1, layer.fc2, activation, x, y),
    )


def final_norm(writer: Writer, stack: Encoder | Decoder, x: Register) -> None:
    """Write the norm after the last layer, if there is one."""
    if stack.layer_norm is not None:
        writer.norm(stack.layer_norm, x, x)
