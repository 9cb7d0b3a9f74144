"""CTranslate2, for comparison: Transformers in its own C++ runtime.

The checkpoint is converted in memory with CTranslate2's model specification, as its converter of fairseq
models does, and a temporary copy is loaded. The vocabulary has the token ids as words, so that both sides
exchange the same ids as all runners.
"""

import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np

from train_model.data.dictionary import BOS, EOS, PAD, UNK
from train_model.models.hypotheses import Found, SearchOptions
from trt_code.devices import processors
from trt_code.runners.base import Unavailable
from trt_code.runners.memory import DeviceMemory, ResidentMemory
from trt_code.runners.search import SearchRunner
from trt_code.runners.spec import Request, RunnerSpec

if TYPE_CHECKING:
    from torch import nn

    from train_model.models.autoregressive import AutoregressiveTranslator

COMPUTE = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "int8"}
"""CTranslate2's name of each precision."""
NOT_INSTALLED = "ctranslate2 is not installed (pip install 'lite-transformer-trt[rivals]')"


def create(request: Request) -> SearchRunner:
    """Convert and load the checkpoint; see ``trt_code.runners.create``.

    INT8 is CTranslate2's own: weights by row, activations by token, without calibration.
    """
    try:
        import ctranslate2
    except ImportError as error:
        raise Unavailable(NOT_INSTALLED) from error
    from train_model.models.checkpoint import load_checkpoint

    model = load_checkpoint(request.model.checkpoint).model.eval()
    memory = ResidentMemory() if request.device == "cpu" else DeviceMemory()
    workers = 1 if request.device == "cuda" else request.threads or processors()
    with tempfile.TemporaryDirectory() as folder:
        convert(model, folder)
        translator = ctranslate2.Translator(
            folder,
            device=request.device,
            compute_type=COMPUTE[request.precision],
            # faster than threads that share each product (doc/results/cpu/forced_length.md)
            inter_threads=workers,
            intra_threads=1,
        )
    config = model.config
    search = _Search(translator, config.max_target_positions, workers)
    runner = SearchRunner(
        request, search, config.max_source_positions, memory.peak, translator.unload_model
    )
    runner.config = config
    return runner


class _Search:
    """A beam search by CTranslate2 in the form of ``trt_code.runners.search.SearchRunner``."""

    def __init__(self, translator: Any, positions: int, workers: int) -> None:
        self._translator, self._positions, self._workers = translator, positions, workers

    def __call__(self, src_tokens: np.ndarray, options: SearchOptions) -> Found:
        rows = [[str(token) for token in row if token != PAD] for row in src_tokens.tolist()]
        results = self._translator.translate_batch(
            rows,
            max_batch_size=-(-len(rows) // self._workers),
            beam_size=options.beam,
            num_hypotheses=options.beam,
            length_penalty=options.len_penalty,
            max_decoding_length=options.max_length(src_tokens.shape[1], self._positions),
            min_decoding_length=options.min_len,
            return_scores=True,
            return_end_token=True,
        )
        hypotheses = [[list(map(int, ids)) for ids in result.hypotheses] for result in results]
        width = max(len(ids) for found in hypotheses for ids in found)
        tokens = np.full((len(rows), options.beam, width), PAD, np.int64)
        scores = np.full((len(rows), options.beam), -np.inf, np.float32)
        for sentence, (found, result) in enumerate(zip(hypotheses, results, strict=True)):
            scores[sentence, : len(found)] = result.scores
            for rank, ids in enumerate(found):
                tokens[sentence, rank, : len(ids)] = ids
        # it gives one score per hypothesis, which becomes the score of each token
        each = np.where(tokens != PAD, scores[:, :, None], np.float32(0))
        counts = np.array([len(found) for found in hypotheses])
        return Found(counts, tokens, each, (tokens != PAD).sum(2), scores)


def convert(model: "AutoregressiveTranslator", folder: str) -> None:
    """Write a Transformer as CTranslate2 reads it; raises what :func:`specification` raises."""
    spec = specification(model)
    spec.validate()
    spec.save(folder)


def specification(model: "AutoregressiveTranslator") -> Any:
    """Return a ``ctranslate2.specs.TransformerSpec`` of a Transformer.

    Raises:
        Unavailable: the network has something else than attention in its layers, or another option that
            CTranslate2 lacks.
    """
    from ctranslate2.specs import TransformerSpec
    from ctranslate2.specs.common_spec import Activation

    config = model.config
    sides = (model.encoder, model.decoder)
    attentions = [[_attention(layer.self_attn) for layer in side.layers] for side in sides]
    heads = {attention.heads for side in attentions for attention in side}
    heads |= {layer.encoder_attn.heads for layer in model.decoder.layers}
    pre_norm = {config.encoder_normalize_before, config.decoder_normalize_before}
    if len(heads) != 1 or len(pre_norm) != 1 or config.activation_fn not in ("relu", "gelu"):
        raise Unavailable(
            "CTranslate2 needs the same heads and norms in both halves, and ReLU or GELU"
        )
    spec = TransformerSpec.from_config(
        tuple(len(side.layers) for side in sides),
        *heads,
        pre_norm=config.encoder_normalize_before,
        activation={"relu": Activation.RELU, "gelu": Activation.GELU}[config.activation_fn],
        layernorm_embedding=config.layernorm_embedding,
        no_final_norm=model.decoder.layer_norm is None,
    )
    for side_spec, side, own in zip((spec.encoder, spec.decoder), sides, attentions, strict=True):
        _set_input(side_spec, side)
        for layer_spec, layer, attention in zip(side_spec.layer, side.layers, own, strict=True):
            _set_attention(layer_spec.self_attention, attention, layer.mixing_norm, (3, 1))
            _set_linear(layer_spec.ffn.linear_0, layer.fc1)
            _set_linear(layer_spec.ffn.linear_1, layer.fc2)
            _set_norm(layer_spec.ffn.layer_norm, layer.ffn_norm)
    for layer_spec, layer in zip(spec.decoder.layer, model.decoder.layers, strict=True):
        norm = layer.encoder_attn_layer_norm
        _set_attention(layer_spec.attention, layer.encoder_attn, norm, (1, 2, 1))
    spec.decoder.projection.weight = _array(model.decoder.output_projection.weight)
    spec.register_source_vocabulary([str(index) for index in range(config.src_vocab)])
    spec.register_target_vocabulary([str(index) for index in range(config.tgt_vocab)])
    spec.config.bos_token, spec.config.eos_token = str(BOS), str(EOS)
    spec.config.unk_token, spec.config.decoder_start_token = str(UNK), str(EOS)
    return spec


def _attention(mixing: "nn.Module") -> "nn.Module":
    """Return the self-attention of a layer; in a Lite Transformer it must be the only branch."""
    from train_model.models.layers import MultiheadAttention

    branches = list(getattr(mixing, "branches", [mixing]))
    if len(branches) != 1 or not isinstance(branches[0], MultiheadAttention):
        raise Unavailable("CTranslate2 has no convolutions over time; it runs Transformers only")
    return branches[0]


def _set_input(spec: Any, side: "nn.Module") -> None:
    embeddings = spec.embeddings[0] if isinstance(spec.embeddings, list) else spec.embeddings
    embeddings.weight = _array(side.embed_tokens.weight)
    spec.scale_embeddings = side.embed_scale
    if side.embed_positions is None:
        raise Unavailable("CTranslate2 needs positional embeddings")
    spec.position_encodings.encodings = _array(side.embed_positions.vectors)[PAD + 1 :]
    for name in ("layer_norm", "layernorm_embedding"):
        if getattr(side, name) is not None:
            _set_norm(getattr(spec, name), getattr(side, name))


def _set_attention(
    spec: Any, attention: "nn.Module", norm: "nn.Module", fused: tuple[int, ...]
) -> None:
    """Set an attention; ``fused``: how many of its projections q, k, v, out each linear layer joins."""
    projections = [attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj]
    for linear, count in zip(spec.linear, fused, strict=True):
        parts, projections = projections[:count], projections[count:]
        linear.weight = np.concatenate([_array(part.weight) for part in parts])
        linear.bias = np.concatenate([_array(part.bias) for part in parts])
    _set_norm(spec.layer_norm, norm)


def _set_linear(spec: Any, linear: "nn.Module") -> None:
    spec.weight, spec.bias = _array(linear.weight), _array(linear.bias)


def _set_norm(spec: Any, norm: "nn.Module") -> None:
    spec.gamma, spec.beta = _array(norm.weight), _array(norm.bias)


def _array(tensor: Any) -> np.ndarray:
    return tensor.detach().float().numpy()


RUNNERS = (
    RunnerSpec(
        "ctranslate2",
        create,
        {"cpu": ("fp32", "int8"), "cuda": ("fp32", "fp16", "bf16", "int8")},
        families=("autoregressive",),
        rival=True,
        n_best=True,
    ),
)
