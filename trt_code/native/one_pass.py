"""Writes a one-pass network as a native program: encoder and length prediction, then canvas to tokens."""

from torch import nn

from train_model.cli import UserError
from train_model.models.conv_crf_transformer import ConvCrfTransformer, DecoderLayer, EncoderLayer
from train_model.models.dynamic_crf import DynamicCRF
from train_model.models.fold import merge_projections
from train_model.models.nonautoregressive_transformer import NonautoregressiveTransformer
from train_model.models.one_pass import OnePassTranslator
from trt_code.native import autoregressive
from trt_code.native.blocks import Embedded, SourceKeys, Writer, array
from trt_code.native.program import Program, Register


def write(program: Program, model: OnePassTranslator) -> None:
    """Add the network to ``program``.

    Raises:
        UserError: the network has no native form.
    """
    source = Writer(program, "source", padding_leaks=model.config.padding_leaks)
    target = Writer(program, "target")
    if isinstance(model, ConvCrfTransformer):
        logits = _convolutions(source, target, merge_projections(model))
    elif isinstance(model, NonautoregressiveTransformer):
        logits = _transformer(source, target, model)
    else:
        raise UserError(f"{type(model).__name__} has no native form")
    crf: DynamicCRF | None = getattr(model, "crf_layer", None)
    if crf is None:
        program.add("choose_tokens", logits)
    else:
        program.add("choose_path", logits, array(crf.E1.weight), array(crf.E2.weight), crf.beam)


def _lengths(program: Program, model: OnePassTranslator, encoded: Register) -> None:
    config = model.config
    program.add(
        "lengths",
        *(encoded, array(model.decoder.embed_length.weight)),
        *(int(config.pred_length_offset), int(config.padding_policy == "masked")),
    )


def _transformer(source: Writer, target: Writer, model: NonautoregressiveTransformer) -> Register:
    program, decoder = source.program, model.decoder
    activation = model.config.activation_fn
    encoded = autoregressive.encoder(source, model.encoder, activation)
    _lengths(program, model, encoded)
    if not decoder.copy_source:
        x = autoregressive.embed(target, decoder)
    else:
        words = source.register("words", encoded.columns)
        source.embed(model.encoder.embed_tokens, model.encoder.embed_scale, None, words)
        x = target.register("x", encoded.columns)
        program.add("copy_source", words, x.columns, x)
        if decoder.embed_positions is not None:
            positions = target.register("positions", x.columns)
            target.positions(decoder.embed_positions, positions)
            target.add(positions, x)
    return autoregressive.decoder(source, encoded, target, decoder, x, activation)


def _convolutions(source: Writer, target: Writer, model: ConvCrfTransformer) -> Register:
    program, encoder, decoder = source.program, model.encoder, model.decoder
    width = model.config.encoder_embed_dim
    x = source.register("x", width)
    source.embed(encoder.embed_tokens, 1, encoder.embed_positions, x)
    copied = _copied(source, target, model, x) if decoder.copy_attn is not None else None
    embedded = None
    if encoder.embed_positions is not None:
        embedded = Embedded(encoder.embed_tokens.weight, encoder.embed_positions.vectors)
    for layer in encoder.layers:
        _convolution(source, layer, layer.layer_norms[0], x, embedded)
        embedded = None
        _feed_forward(source, layer, layer.layer_norms[1], x)
    if encoder.layer_norm is not None:
        source.norm(encoder.layer_norm, x, x)
    _lengths(program, model, x)
    keys = SourceKeys(source, x, [layer.encoder_attn for layer in decoder.layers])

    x = target.register("x", width)
    target.embed(decoder.embed_tokens, 1, None, x)
    if copied is not None:
        program.add("fill_unknown", copied, width, x)
    positions = None
    if decoder.embed_positions is not None:
        positions = target.register("positions", width)
        target.positions(decoder.embed_positions, positions)
    for index, layer in enumerate(decoder.layers):
        if positions is not None:  # the original adds them before every layer
            target.add(positions, x)
        _convolution(target, layer, layer.conv_layer_norm, x)
        target.residual(
            *(layer.encoder_attn_layer_norm, x, layer.normalize_before),
            lambda x, y, index=index: keys.attend(target, index, x, y),
        )
        _feed_forward(target, layer, layer.final_layer_norm, x)
    if decoder.layer_norm is not None:
        target.norm(decoder.layer_norm, x, x)
    logits = target.register("logits", model.config.tgt_vocab)
    target.linear(x, decoder.output_projection, logits)
    return logits


def _copied(source: Writer, target: Writer, model: ConvCrfTransformer, x: Register) -> Register:
    """Write the attention from target positions to the source's embeddings; return its result.

    ``x`` has the embeddings with their positions, before the first layer.
    """
    program, encoder, decoder = source.program, model.encoder, model.decoder
    width = model.config.encoder_embed_dim
    words = source.register("words", width)
    keys = program.register("source", width, "keys")
    source.embed(encoder.embed_tokens, 1, None, words)
    program.add("keys", x, 0, 1, width, keys)
    query, copied = target.register("query", width), target.register("copied", width)
    if decoder.embed_positions is None:
        query = target.register("no positions", width)  # stays zero
    else:
        vectors = decoder.copy_attn(decoder.embed_positions.vectors)
        program.add("positions", target.stage, array(vectors), query)
    program.add("attend_source", query, keys, words, 0, 1, width, copied)
    return copied


def _convolution(
    writer: Writer,
    layer: EncoderLayer | DecoderLayer,
    norm: nn.LayerNorm,
    x: Register,
    embedded: Embedded | None = None,
) -> None:
    if layer.normalize_before:
        embedded = None  # the block sees it normalised
    writer.residual(
        *(norm, x, layer.normalize_before),
        lambda x, y: autoregressive.convolution_block(writer, layer, x, y, embedded),
    )


def _feed_forward(writer: Writer, layer: EncoderLayer | DecoderLayer, norm, x: Register) -> None:
    writer.residual(
        *(norm, x, layer.normalize_before),
        lambda x, y: writer.feed_forward(layer.fc1, layer.fc2, "relu", x, y),
    )
