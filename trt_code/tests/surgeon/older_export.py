"""An export of a small network in the form of the TorchScript exporter, opset 11.

The layout is fairseq's [T, B, C]. LayerNorm becomes ReduceMean/Sub/Pow, the Viterbi loop is unrolled, the
convolution is ``dynamicconv_forward`` with one attribute in its own domain, and scatters write the canvas.
The length is fixed, because the loop is unrolled.
"""

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from train_model.ops import dynamic_conv

VOCAB, WIDTH, HEADS, BEAM, RANK, LENGTH = 50, 16, 4, 5, 3, 6


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, padding_l):
        return dynamic_conv(x, weight, padding_l)

    @staticmethod
    def symbolic(g, x, weight, padding_l):
        node = g.op("DynamicconvSpace::dynamicconv_forward", x, weight, padding_l_i=padding_l)
        node.setType(x.type())
        return node


class _Layer(nn.Module):
    def __init__(self, kernel_size: int, padding_l: int) -> None:
        super().__init__()
        self.kernel_size, self.padding_l = kernel_size, padding_l
        self.linear1, self.linear2 = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.weight_linear = nn.Linear(WIDTH, HEADS * kernel_size, bias=False)
        self.norm = nn.LayerNorm(WIDTH, eps=1e-3)

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        gated = nn.functional.glu(self.linear1(x), -1)  # T x B x C
        if padding is not None:
            gated = gated.masked_fill(padding.transpose(0, 1).unsqueeze(2), 0)
        length, batch, _ = gated.shape
        weight = self.weight_linear(gated).view(length, batch, HEADS, self.kernel_size)
        weight = weight.softmax(-1).permute(1, 2, 3, 0).contiguous()  # B x H x K x T
        y = _Convolve.apply(gated.permute(1, 2, 0).contiguous(), weight, self.padding_l)
        return self.norm(x + self.linear2(y.permute(2, 0, 1)))


class OlderTranslator(nn.Module):
    """Maps tokens [B, LENGTH] to Viterbi's tokens [B, 2 LENGTH] int64 and scores, as fairseq's class does."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.length = nn.Embedding(VOCAB, WIDTH), nn.Linear(WIDTH, 2 * LENGTH - 2)
        self.positions = nn.Embedding(2 * LENGTH + 2, WIDTH)
        self.encoder, self.decoder = _Layer(3, 1), _Layer(4, 3)
        self.E1, self.E2 = nn.Embedding(VOCAB, RANK), nn.Embedding(VOCAB, RANK)

    def forward(self, src_tokens: Tensor) -> tuple[Tensor, Tensor]:
        padding = src_tokens.eq(1)
        x = self.encoder((self.embed(src_tokens) + self.at(src_tokens)).transpose(0, 1), padding)
        lengths = self.length(x.mean(0)).max(-1)[1] + 2
        width = 2 * LENGTH
        canvas = src_tokens.new_zeros(src_tokens.size(0), width).fill_(1)
        canvas.masked_fill_(torch.arange(width)[None, :] < lengths[:, None], 3)
        canvas[:, 0] = 0
        canvas.scatter_(1, lengths[:, None] - 1, 2)
        hidden = self.attend(self.at(canvas) + self.embed(canvas), x.transpose(0, 1), padding)
        hidden = hidden.transpose(0, 1)
        logits = self.decoder(hidden, None).transpose(0, 1) @ self.embed.weight.t()
        return self.viterbi(logits, canvas.ne(1))

    def at(self, tokens: Tensor) -> Tensor:
        """fairseq's positions, counted over the tokens that are not padding."""
        real = tokens.ne(1).int()
        return self.positions((torch.cumsum(real, dim=1).type_as(real) * real).long() + 1)

    def attend(self, x: Tensor, source: Tensor, padding: Tensor) -> Tensor:
        """Attention of one head, with minus infinity for padding."""
        scores = torch.bmm(x, source.transpose(1, 2)).masked_fill(padding.unsqueeze(1), -torch.inf)
        return x + torch.bmm(scores.softmax(-1), source)

    def viterbi(self, logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """fairseq's loop."""
        emissions, targets = logits.topk(BEAM, 2)
        batch, length = emissions.shape[:2]
        source, target = self.E1(targets[:, :-1]), self.E2(targets[:, 1:])
        transitions = torch.bmm(
            source.view(-1, BEAM, RANK), target.view(-1, BEAM, RANK).transpose(1, 2)
        ).view(batch, -1, BEAM, BEAM)
        score, back_pointers, prefixes = emissions[:, 0], [], []
        keep = torch.arange(BEAM).expand(*score.size()).contiguous()
        for t in range(1, length):
            prefixes.append(score)
            best, index = (score[:, :, None] + transitions[:, t - 1]).max(dim=1)
            best = best + emissions[:, t]
            score = torch.where(mask[:, t : t + 1], best, score)
            back_pointers.append(torch.where(mask[:, t : t + 1], index, keep))
        best, slot = score.max(dim=1)
        slots, scores = [slot[:, None]], [best[:, None]]
        for index, prefix in zip(reversed(back_pointers), reversed(prefixes), strict=True):
            scores.append(prefix.gather(1, slots[-1]))
            slots.append(index.gather(1, slots[-1]))
        slots.reverse()
        tokens = targets.gather(2, torch.cat(slots, 1)[:, :, None])[:, :, 0]
        scores.reverse()
        scores = torch.cat(scores, 1)
        scores[:, 1:] = scores[:, 1:] - scores[:, :-1]
        return tokens, scores


def export_older(path: Path, seed: int = 0) -> OlderTranslator:
    """Write the file with the TorchScript exporter; return the network."""
    torch.manual_seed(seed)
    model = OlderTranslator().eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for norm in (model.encoder.norm, model.decoder.norm):
        norm.weight.add_(torch.randn(WIDTH) * 0.3)
        norm.bias.add_(torch.randn(WIDTH) * 0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.randint(4, VOCAB, (2, LENGTH)),),
            str(path),
            dynamo=False,
            opset_version=11,
            input_names=["src_tokens"],
            output_names=["output_tokens", "output_scores"],
            dynamic_axes={"src_tokens": {0: "batch"}},
            custom_opsets={"DynamicconvSpace": 1},
            operator_export_type=torch.onnx.OperatorExportTypes.ONNX_FALLTHROUGH,
        )
    return model
