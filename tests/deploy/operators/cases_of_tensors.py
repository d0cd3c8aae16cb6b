"""More of `cases`: what tensors do, and attention."""

import torch
import torch.nn.functional as F
from torch import nn

from .cases import IMAGE, Attends, Embeds, Recurrent, case, cases

torch.manual_seed(1)
WEIGHT, LEFT, ROWS = torch.randn(8, 6), torch.randn(3, 9), torch.tensor([2, 0, 3, 3])
MASK = torch.linspace(-1, 1, 25).view(5, 5)
CAUSAL = torch.triu(torch.full((5, 5), -torch.inf), 1)


for name, function in {
    "exp": torch.exp, "log": lambda x: (x * x + 1).log(), "log1p": lambda x: (x * x).log1p(),
    "log2": lambda x: (x * x + 1).log2(), "expm1": torch.expm1, "sqrt": lambda x: (x * x + 1).sqrt(),
    "rsqrt": lambda x: (x * x + 1).rsqrt(), "reciprocal": lambda x: (x * x + 1).reciprocal(), "square": torch.square,
    "pow": lambda x: (x * x + 0.5) ** 1.5 + 2.0**x + (x * x + 1) ** (x * x), "abs": torch.abs,
    "clamp": lambda x: x.clamp(-0.3, 0.4) + x.clamp(min=0.1), "minimum": lambda x: torch.minimum(x, x.flip(-1)),
    "maximum": lambda x: torch.maximum(x, 0.5 * x.flip(-1)), "where": lambda x: torch.where(x > 0, x * 2, x.exp()),
    "sin": torch.sin, "cos": torch.cos, "tan": lambda x: (x * 0.3).tan(), "atan": torch.atan,
    "atan2": lambda x: torch.atan2(x, x.flip(-1) + 3), "erf": torch.erf, "sinh": torch.sinh, "cosh": torch.cosh,
    "asinh": torch.asinh, "sign": lambda x: x.sign() * x, "floor": lambda x: x.floor() + x,
    "round": lambda x: x.round() + x, "div": lambda x: x / (x.flip(-1) ** 2 + 1) + 1 / (x * x + 1),
    "lerp": lambda x: torch.lerp(x, x.flip(-1), 0.3), "addcmul": lambda x: torch.addcmul(x, x, x, value=0.5),
    "addcdiv": lambda x: torch.addcdiv(x, x, x * x + 1, value=0.5),
    "logaddexp": lambda x: torch.logaddexp(x, x.flip(-1)),
    "nan_to_num": torch.nan_to_num, "masked_fill": lambda x: x.masked_fill(x > 0.5, -1e4),
    "logit": lambda x: x.sigmoid().logit(1e-6), "detach": lambda x: x * x.detach(),
}.items():  # fmt: skip
    case(name, "", IMAGE, function)

cases("max", one=lambda x: x.flatten(1).max(1)[0], axis=lambda x: x.max(1)[0], ties=lambda x: x.relu().max(1)[0])
cases("min", axis=lambda x: x.min(-1)[0])
cases("amax", axes=lambda x: x.amax((2, 3)), ties=lambda x: x.relu().amax((2, 3)))
cases("amin", axis=lambda x: x.amin(1))
cases("aminmax", axis=lambda x: torch.cat(torch.aminmax(x.flatten(2), dim=2), 1))
cases("topk", largest=lambda x: x.topk(3, 1)[0], smallest=lambda x: x.topk(2, -1, largest=False)[0])
cases("sort", rising=lambda x: x.sort(-1)[0], falling=lambda x: x.sort(1, descending=True)[0])
cases("argsort", read=lambda x: x.gather(1, x.argsort(1)))
cases("mean", axes=lambda x: x.mean((2, 3)), all=lambda x: x.mean((1, 2, 3)))
cases("sum", axis=lambda x: x.sum(1))
cases("norm", channels=lambda x: x.norm(dim=1), sum_of_one=lambda x: x.norm(p=1, dim=1))
cases("vector_norm", two=lambda x: torch.linalg.vector_norm(x, dim=(2, 3)), three=lambda x: x.norm(p=3, dim=1))
cases("matrix_norm", frobenius=torch.linalg.matrix_norm)
cases("var", axis=lambda x: x.var(1), both=lambda x: torch.cat(torch.var_mean(x, 1, unbiased=False), 1))
cases("std", axes=lambda x: x.std((2, 3)))
cases("logsumexp", axis=lambda x: x.logsumexp(1))
cases("cumsum", axis=lambda x: x.cumsum(1))
cases("logcumsumexp", axis=lambda x: x.logcumsumexp(1))


def _assigned(x):
    y = x.clone()
    y[:, 1:3, ::2] = 2 * x[:, 0:2, 1:6]
    y[:, :, 0] = y[:, :, 1] * 3
    y[:, 0, -1] = 0.5
    y[..., 2].copy_(x[..., 3])
    return y


def _everywhere(x):
    return ROWS.view(1, 4, 1, 1).expand(x.shape[0], 4, 9, 8)


cases("slice", strided=lambda x: x[:, 1:3, ::2], shifted=lambda x: torch.cat([x[:, :2, 1:], x[:, 2:, :-1]], 1))
cases("select", middle=lambda x: x[:, 1], last=lambda x: x[..., -1])
cases("index", rows=lambda x: x[:, ROWS], pairs=lambda x: x[:, ROWS, ROWS])
cases("index_select", rows=lambda x: x.index_select(1, ROWS))
cases("index_add", rows=lambda x: x.index_add(1, ROWS, x * 2))
cases("gather", largest=lambda x: x.gather(1, torch.argmax(x, 1, keepdim=True)))
cases("scatter", one=lambda x: x.scatter(1, _everywhere(x)[:, :1], x[:, 1:2] * 2))
cases("scatter_add", all=lambda x: x.scatter_add(1, _everywhere(x), x * 2))
cases("assignment", slices=_assigned)
cases("cat", three=lambda x: torch.cat([x, x.relu(), x[:, :1]], 1))
cases("stack", two=lambda x: torch.stack([x, x * 2], 2))
cases("split", unequal=lambda x: torch.cat(x.split([1, 3], 1)[::-1], 1))
cases("chunk", second=lambda x: x.chunk(2, 1)[1])
cases("unbind", third=lambda x: x.unbind(1)[2])
cases("flip", two=lambda x: x.flip(1, 3))
cases("roll", two=lambda x: x.roll((1, -2), (2, 3)))
cases("permute", last=lambda x: x.permute(0, 2, 3, 1), moved=lambda x: x.movedim(1, -1))
cases("reshape", flat=lambda x: x.flatten(1), apart=lambda x: x.unflatten(1, (2, 2)))
cases("reshape", images=lambda x: x.flatten(0, 1).mean(-1).view(-1, 4, 9))
cases("reshape", windows=lambda x: x[:, :, :8].reshape(-1, 4, 2, 4, 2, 4).permute(0, 2, 4, 3, 5, 1))
cases("expand", three=lambda x: x[:, :1].expand(-1, 3, -1, -1))
cases("repeat", channels=lambda x: x.repeat(1, 2, 1, 1), tiles=lambda x: x.tile(1, 1, 2, 1))
cases("repeat_interleave", channels=lambda x: x.repeat_interleave(2, 1))
cases("squeeze", one=lambda x: x[:, :1].squeeze(1))
cases("tril", below=lambda x: x.tril(), above=lambda x: x.triu(1))
cases("rot90", quarter=lambda x: torch.rot90(x, 1, (2, 3)))
cases("unfold", padded=lambda x: F.unfold(x, 3, padding=1), strided=lambda x: F.unfold(x, (2, 3), 2, stride=2))
cases("unfold", of_tensor=lambda x: x.unfold(2, 3, 2), apart=lambda x: x.unfold(2, 2, 3))
cases("fold", overlapping=lambda x: F.fold(x.reshape(-1, 16, 18), (7, 4), 2))


def _sampled(**how):
    return lambda x: F.grid_sample(
        x[:, 2:], x[:, :2].tanh().permute(0, 2, 3, 1) * 1.5, **{"align_corners": False, **how}
    )


cases("grid_sample", bilinear=_sampled(), border=_sampled(padding_mode="border", align_corners=True))
cases("grid_sample", nearest=_sampled(mode="nearest"))
case("grid_sample", "bicubic", IMAGE, _sampled(mode="bicubic", padding_mode="reflection"), long=True)

cases("linear", (5, 8), with_bias=nn.Linear(8, 5), without=nn.Linear(8, 5, bias=False))
cases("matmul", weight=lambda x: x @ WEIGHT, left=lambda x: LEFT @ x, four=lambda x: x @ x.transpose(-1, -2))
cases("matmul", vector=lambda x: x @ WEIGHT[:, 0], broadcast=lambda x: x[:, :1] @ x.transpose(-1, -2))
cases("matmul", three=lambda x: x[:, 0] @ WEIGHT, five=lambda x: x[:, None] @ x[:, :1].transpose(-1, -2)[:, None])
cases("bmm", of_parts=lambda x: torch.bmm(x[:, 0], x[:, 1].transpose(1, 2)))
cases("baddbmm", scaled=lambda x: torch.baddbmm(x[:, 0, :, :1], x[:, 0], x[:, 1].mT, beta=0.5, alpha=2.0))
cases("addmm", bias=lambda x: torch.addmm(WEIGHT[0], x[:, 0, 0], WEIGHT))
cases("einsum", own=lambda x: torch.einsum("bchw,bdhw->bcd", x, x), swap=lambda x: torch.einsum("bchw->bwhc", x))
cases("einsum", weight=lambda x: torch.einsum("bchw,wk->bkhc", x, WEIGHT))
cases("einsum", attention=lambda x: torch.einsum("bhid,bhjd->bhij", x, x * 2))
cases("bilinear", own=lambda x: F.bilinear(x, x * 2, WEIGHT.new_full((5, 8, 8), 0.1)))
cases("tensordot", weight=lambda x: torch.tensordot(x, WEIGHT, dims=([3], [0])))

cases("MultiheadAttention", (5, 8), plain=Attends(need_weights=False), weights=Attends(), last=Attends(first=False))
cases("MultiheadAttention", (5, 8), masked=Attends(need_weights=False, attn_mask=CAUSAL))
layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
cases("TransformerEncoderLayer", (5, 8), norm_first=layer)


def _attention(keys=5, **how):
    return lambda x: F.scaled_dot_product_attention(x, x[:, :, :keys] * 1.1, x[:, :, :keys] * 0.9, **how)


cases(
    "scaled_dot_product_attention",
    (2, 5, 8),
    plain=_attention(),
    causal=_attention(is_causal=True),
    causal_across=_attention(3, is_causal=True),
    scaled=_attention(scale=0.2),
    forbidden=_attention(attn_mask=torch.ones(5, 5, dtype=torch.bool).tril()),
    nothing_allowed=_attention(attn_mask=torch.ones(5, 5, dtype=torch.bool).tril(-1)),
    added=_attention(attn_mask=MASK),
)
cases(
    "scaled_dot_product_attention",
    (4, 5, 8),
    grouped=lambda x: F.scaled_dot_product_attention(x, x[:, :2], x[:, 2:], enable_gqa=True),
)
cases("Embedding", (5,), weighed=Embeds())
for kind in (nn.LSTM, nn.GRU, nn.RNN):
    case(kind.__name__, "steps written out", (5, 8), Recurrent(kind), long=kind is not nn.GRU)
