"""Many questions on one video in one forward pass of the stock model.

A packed sequence is: the prompt up to the video, the visual tokens, <|vision_end|>, then one block
of tokens for each question. Each block sees everything before the blocks and itself, and its positions start
where a single question's would. So one pass gives exactly what `Q` separate passes would give,
which `check_packing` shows against the stock forward.
"""

import itertools
from dataclasses import dataclass, fields, replace

import torch
from torch.nn import functional

from experiments.x2l_tiny import folder  # noqa: F401  (first: it makes transformers importable without CUDA)

# isort: split
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLForConditionalGeneration

IGNORED = -100


@dataclass(frozen=True)
class Packed:
    """Questions on videos, ready for the model.

    Attributes:
        prefix: (prefix,) ids of the prompt before the video's first token.
        visual: (batch, visual tokens, hidden) input embeddings of the visual tokens.
        grid: (3, batch, visual tokens) time, row and column of each, before the prefix is added.
        after: id of <|vision_end|>.
        lengths: length of each block; the same for every scene of the batch.
        questions: (batch, sum of lengths) ids of the blocks, each padded on its right.
        labels: (batch, sum of lengths) the next token where it counts, else `IGNORED`.
        kinds: (blocks,) which kind of question each block holds.
        told: (batch, sum of lengths) for training: the word that the answer's letter stands for,
            at the place where the letter is to be said; else `IGNORED`.
        ranks: (batch, sum of lengths) for training: a digit at the shapes among ordering's options;
            else `IGNORED`.
        order: (batch, visual tokens, 2) for training: how many needles, and how many of the same
            shape, come before a needle's token; else `IGNORED`.
    """

    prefix: torch.Tensor
    visual: torch.Tensor
    grid: torch.Tensor
    after: int
    lengths: tuple[int, ...]
    questions: torch.Tensor
    labels: torch.Tensor
    kinds: tuple[int, ...]
    told: torch.Tensor | None = None
    ranks: torch.Tensor | None = None
    order: torch.Tensor | None = None

    def to(self, device: torch.device) -> "Packed":
        """The same on a device."""
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {name: v.to(device) for name, v in held.items() if isinstance(v, torch.Tensor)}
        return replace(self, **moved)


def positions(packed: Packed) -> torch.Tensor:
    """(3, batch, tokens): rotary positions; text after the video goes on after its largest."""
    axes, batch, _ = packed.grid.shape
    start = len(packed.prefix)
    device = packed.grid.device
    before = torch.arange(start, device=device).expand(axes, batch, -1)
    video = packed.grid + start
    end = video.amax((0, 2))[None, :, None] + 1  # (1, batch, 1)
    places = [torch.arange(length, device=device) for length in packed.lengths]
    block = end + 1 + torch.cat(places)
    return torch.cat([before, video, end.expand(axes, -1, -1), block.expand(axes, -1, -1)], -1)


def _packed_attention(module, query, key, value, mask, dropout=0.0, scaling=None, **kwargs):
    """Attention over (batch, heads, tokens, head_dim); `packed_lengths` are the blocks' lengths.

    The blocks' scores against what lies before them and against themselves are two products under
    one softmax: a masked attention over everything would spend most of its work on pairs of
    different questions (measured on CPU in bfloat16: four times slower).
    """
    lengths = kwargs["packed_lengths"]
    split = query.shape[2] - sum(lengths)
    first = functional.scaled_dot_product_attention(
        query[:, :, :split], key[:, :, :split], value[:, :, :split], is_causal=True, scale=scaling
    )
    dtype = first.dtype
    before_k, before_v = key[:, :, :split].to(dtype), value[:, :, :split].to(dtype)
    shared = (query[:, :, split:] * scaling).to(dtype) @ before_k.transpose(-1, -2)
    outs, at = [first], split
    for number, group in _runs(lengths):
        span = slice(at, at + number * group)
        own = [x[:, :, span].to(dtype).unflatten(2, (number, group)) for x in (query, key, value)]
        hidden = torch.ones(group, group, dtype=torch.bool, device=query.device).triu(1)
        inside = (own[0] * scaling) @ own[1].transpose(-1, -2)
        inside = inside.masked_fill(hidden, -1e4).flatten(2, 3)
        outside = shared[:, :, at - split : at - split + number * group]
        weight = torch.cat([outside, inside], -1).softmax(-1).to(dtype)
        near = weight[..., split:].unflatten(2, (number, group)) @ own[2]
        outs.append(weight[..., :split] @ before_v + near.flatten(2, 3))
        at += number * group
    return torch.cat(outs, 2).transpose(1, 2), None


def _runs(lengths: tuple[int, ...]) -> list[tuple[int, int]]:
    """Neighbouring blocks of one length: (how many, length)."""
    return [(len(list(group)), length) for length, group in itertools.groupby(lengths)]


AttentionInterface.register("packed", _packed_attention)
AttentionMaskInterface.register("packed", lambda *args, **kwargs: None)


def logits(model: Qwen2_5_VLForConditionalGeneration, packed: Packed) -> torch.Tensor:
    """(labelled, vocabulary): what the model says at the labelled places, in their order."""
    batch = len(packed.questions)
    embed = model.get_input_embeddings()
    before = embed(packed.prefix).expand(batch, -1, -1)
    after = torch.tensor([packed.after], device=packed.questions.device)
    end = embed(after).expand(batch, -1, -1)
    embeds = torch.cat([before, packed.visual.to(before.dtype), end, embed(packed.questions)], 1)
    hidden = model.get_decoder()(
        inputs_embeds=embeds,
        position_ids=positions(packed),
        use_cache=False,
        packed_lengths=packed.lengths,
    ).last_hidden_state
    hidden = hidden[:, -packed.questions.shape[1] :]
    return model.lm_head(hidden[packed.labels != IGNORED])


# After so many layers a needle's tokens should know its place in time, ordering's options theirs,
# and the end of the prompt the word behind the letter.
ORDER_LAYERS, RANK_LAYERS, WORD_LAYERS = 2, 3, 4
MOST_NEEDLES = 12


def losses(
    model: Qwen2_5_VLForConditionalGeneration, probe: torch.nn.Linear, packed: Packed
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cross-entropy of the answers, and of what lower layers should know; and the answers' scores.

    A letter takes a chain of steps: where each shape is, which shape is the answer, which letter
    stands before it. With a loss on the letter alone ordering stayed at chance for 2000 steps,
    though the model could say the word: it did so in its last layer, too late to find the letter.
    """
    kept: dict[int, torch.Tensor] = {}
    layers = model.get_decoder().layers

    def keep(number: int):
        def hook(module, inputs, output):
            kept[number] = output if isinstance(output, torch.Tensor) else output[0]

        return hook

    hooks = [
        layers[n - 1].register_forward_hook(keep(n))
        for n in (ORDER_LAYERS, RANK_LAYERS, WORD_LAYERS)
    ]
    try:
        scores = logits(model, packed).float()
    finally:
        for hook in hooks:
            hook.remove()
    loss = functional.cross_entropy(scores, packed.labels[packed.labels != IGNORED])
    extra = torch.zeros((), device=loss.device)
    for number, labels in ((RANK_LAYERS, packed.ranks), (WORD_LAYERS, packed.told)):
        hidden = kept[number][:, -packed.questions.shape[1] :][labels != IGNORED]
        if len(hidden):
            said = model.lm_head(model.get_decoder().norm(hidden)).float()
            extra = extra + functional.cross_entropy(said, labels[labels != IGNORED])
    start = len(packed.prefix)
    hidden = kept[ORDER_LAYERS][:, start : start + packed.visual.shape[1]]
    needle = packed.order[..., 0] != IGNORED
    said = probe(model.get_decoder().norm(hidden[needle])).float()
    place, repeat = packed.order[needle].unbind(-1)
    extra = extra + functional.cross_entropy(said[:, :MOST_NEEDLES], place)
    return loss, extra + functional.cross_entropy(said[:, MOST_NEEDLES:], repeat), scores
