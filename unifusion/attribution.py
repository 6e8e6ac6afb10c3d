"""What Layerwise Attention Pooling does with a stack of hidden states: numbers only, see :mod:`.plots` for figures.

Every function takes the pooling module as it is (ours or ComfyUI's ``txtfusion``, which share their layout) and runs
its own pieces, so LoRAs and casts of the module count.

Shapes: T tokens, N tapped layers, W width.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch

from .hidden_states import GENERATED, IMAGE, INSTRUCTION, HiddenStates, drop_taps, image_role, role_name
from .quoting import printable, quoted


class View(NamedTuple):
    """One pass through the pooling, with its insides kept.

    Attributes:
        attention: for each of the two layerwise blocks ``(T, N, N)`` float32, mean over heads; ``[t, q, k]`` is how
            much the state of tap q attends to that of tap k, rows sum to 1.
        share: ``(T, N)`` float32, rows sum to 1; see :func:`tap_share`.
        summed: ``(1, T, W)``, the sum over layers that the refiner gets.
        pooled: ``(1, T, W)``, what the drawing model gets.
    """

    attention: tuple[torch.Tensor, ...]
    share: torch.Tensor
    summed: torch.Tensor
    pooled: torch.Tensor

    @property
    def received(self) -> tuple[torch.Tensor, ...]:
        """For each layerwise block ``(T, N)``: attention a tap receives, mean over the taps that ask; rows sum to 1."""
        return tuple(block.mean(dim=1) for block in self.attention)


def attention_of(
    block, x: torch.Tensor, key_bias: torch.Tensor | None = None, queries: torch.Tensor | None = None
) -> torch.Tensor:
    """Attention probabilities of one block of the pooling (Krea 2 ``txtfusion``: pre-norm, normed queries and keys,
    no position code).

    Args:
        block: a text fusion block.
        x: ``(B, L, W)``, the block's input.
        key_bias: ``(B, L)`` added to the logits of each key.
        queries: indices along L to compute; all if None.

    Returns:
        ``(B, queries, L)`` float32, mean over heads.
    """
    attention, normed = block.attn, block.prenorm(x)

    def split(y: torch.Tensor, heads: int) -> torch.Tensor:
        return y.unflatten(-1, (heads, -1)).transpose(1, 2)

    q, k = attention.qknorm(
        split(attention.wq(normed), attention.heads), split(attention.wk(normed), attention.kvheads)
    )
    if queries is not None:
        q = q[:, :, queries]
    k = k.repeat_interleave(attention.heads // attention.kvheads, dim=1)
    logits = (q.float() * q.shape[-1] ** -0.5) @ k.float().transpose(-1, -2)
    if key_bias is not None:
        logits = logits + key_bias.float()[:, None, None, :]
    return logits.softmax(-1).mean(dim=1)


def tap_share(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Share of each tap in a pooled token: ``|p_k| * ||x_k||`` over its sum, where ``sum_k p_k x_k`` is the token.

    Norms say how much a tap puts in, not in which direction; taps of opposite sign may cancel in part.

    Args:
        x: ``(T, N, W)``, output of the layerwise blocks.
        weights: ``(N,)``, the projector's.

    Returns:
        ``(T, N)`` float32, rows sum to 1.
    """
    size = x.float().norm(dim=-1) * weights.float().abs()
    return size / size.sum(dim=-1, keepdim=True).clamp_min(1e-20)


def projector_weights(pooling, like: torch.Tensor) -> torch.Tensor:
    """The projector's ``(N,)`` weights as the forward pass sees them, LoRA and casts included."""
    taps = like.shape[-2]
    eye = torch.eye(taps, device=like.device, dtype=like.dtype)
    return pooling.projector(eye).squeeze(-1)


def look(pooling, states: torch.Tensor, key_bias: torch.Tensor | None = None) -> View:
    """Run the pooling and keep what it does.

    Args:
        pooling: layerwise blocks, projector and refiner blocks in Krea 2's layout.
        states: ``(1, T, N, W)`` in the compute dtype, on the module's device.
        key_bias: ``(1, T)`` log weights of the tokens for the refiner, or None.
    """
    x, attention = states[0], []
    for block in pooling.layerwise_blocks:
        attention.append(attention_of(block, x).cpu())
        x = block(x.contiguous(), None)
    share = tap_share(x, projector_weights(pooling, x)).cpu()
    summed = pooling.projector(x.unsqueeze(0).transpose(2, 3)).squeeze(-1)
    pooled = summed
    for block in pooling.refiner_blocks:
        pooled = block(pooled, None if key_bias is None else key_bias[:, None, None, :])
    return View(tuple(attention), share, summed, pooled)


def word_attention(
    pooling, summed: torch.Tensor, tokens: Sequence[int], key_bias: torch.Tensor | None = None
) -> torch.Tensor:
    """How much the refiner lets some tokens take from every token: ``(T,)`` float32, sums to 1.

    Mean over the refiner blocks, their heads and the tokens asked for.
    """
    index = torch.tensor(list(tokens), device=summed.device)
    x, rows = summed, []
    for block in pooling.refiner_blocks:
        rows.append(attention_of(block, x, key_bias, index)[0].mean(dim=0))
        x = block(x, None if key_bias is None else key_bias[:, None, None, :])
    return torch.stack(rows).mean(dim=0).cpu()


_MOST_QUERIES = 256  # tokens whose attention is averaged; more change the mean by less than is shown


def heed(pooling, summed: torch.Tensor, roles: torch.Tensor, key_bias: torch.Tensor | None = None) -> dict[str, float]:
    """How much of what tokens take from one another in the refiner comes from words and from each picture.

    Strengths and word weights count, since they are a bias on the same attention.

    Args:
        pooling: refiner blocks in Krea 2's layout.
        summed: ``(1, T, W)`` from :func:`look`.
        roles: ``(T,)``.
        key_bias: ``(1, T)`` log weights, or None.

    Returns:
        ``{"the words": 0.7, "image 1": 0.3}``; what is not there is left out; adds up to 1.
    """
    count = summed.shape[1]
    queries = torch.linspace(0, count - 1, min(count, _MOST_QUERIES)).round().long().tolist()
    taken = word_attention(pooling, summed, queries, key_bias)
    words = (roles == GENERATED) | (roles == INSTRUCTION)
    parts = {"the words": taken[words].sum()} if words.any() else {}
    for role in sorted({role for role in roles.tolist() if role >= IMAGE}):
        parts[role_name(role)] = taken[roles == role].sum()
    total = max(float(sum(parts.values())), 1e-20)
    return {name: float(part) / total for name, part in parts.items()}


def silencing_effects(pooled_of, hidden: HiddenStates) -> torch.Tensor:
    """What each layer does: the mean relative change of the pooled tokens when it alone is silenced.

    Args:
        pooled_of: from layer states ``(1, T, N, W)`` to pooled tokens ``(1, T, W)``.
        hidden: whose layers are silenced one after the other.

    Returns:
        ``(N,)`` float32.
    """
    whole = pooled_of(hidden.states)
    without = (pooled_of(drop_taps(hidden, [tap]).states) for tap in hidden.taps)
    return torch.stack([relative_change(whole, one).mean() for one in without])


_ALIKE = 0.1  # two parts this close are about equal
_NOTHING = 0.03  # a change of the tokens that the eye does not find in the picture


def verdict(parts: dict[str, float], effects: torch.Tensor, taps: Sequence[int]) -> list[str]:
    """What a creator wants to know, in plain sentences.

    Args:
        parts: from :func:`heed`.
        effects: from :func:`silencing_effects`.
        taps: the tapped layers.
    """
    lines = []
    if len(parts) > 1:
        ordered = sorted(parts.items(), key=lambda part: -part[1])
        (first, most), (second, next_one) = ordered[:2]
        shares = ", ".join(f"{name} {part:.0%}" for name, part in ordered)
        if most - next_one < _ALIKE:
            lines.append(f"The picture follows {first} and {second} about equally ({shares}).")
        else:
            others = " and ".join(name for name, _ in ordered[1:])
            lines.append(f"The picture follows {first} more than {others} ({shares}).")
    elif "the words" in parts:
        lines.append("The picture follows the words alone: no picture is among the tokens.")
    elif parts:
        lines.append(f"The picture follows {next(iter(parts))} alone: no words are among the tokens.")
    if len(taps) > 1:
        strongest = int(effects.argmax())
        lines.append(f"Layer {taps[strongest]} matters most: without it the tokens change by {effects[strongest]:.0%}.")
        idle = [tap for tap, effect in zip(taps, effects.tolist()) if effect < _NOTHING]
        if idle:
            lines.append(f"Silencing {', '.join(map(str, idle))} changes next to nothing (below {_NOTHING:.0%}).")
        else:
            weakest = int(effects.argmin())
            lines.append(f"No layer is idle: the least, {taps[weakest]}, changes them by {effects[weakest]:.0%}.")
    return lines


def by_role(values: torch.Tensor, roles: torch.Tensor) -> dict[str, torch.Tensor]:
    """Mean of ``(T, N)`` values over the tokens of each role, in order of first appearance; ``"all"`` first."""
    out = {"all": values.mean(dim=0)}
    for role in dict.fromkeys(roles.tolist()):
        out[role_name(role)] = values[roles == role].mean(dim=0)
    return out


class Word(NamedTuple):
    """Text and the tokens it is made of."""

    text: str
    tokens: tuple[int, ...]


def words_of(hidden: HiddenStates) -> list[Word]:
    """Words of the prompt and the rewritten text in order; marks, blanks and control tokens are left out."""
    words: list[list] = []
    previous = -2
    for index, (piece, role) in enumerate(zip(hidden.pieces, hidden.roles.tolist())):
        if not piece or role >= IMAGE or piece.startswith("<|") or role_name(role) in ("system", "template"):
            continue
        if words and index == previous + 1 and piece[:1].isalnum() and words[-1][0][-1:].isalnum():
            words[-1][0] += piece.rstrip()
            words[-1][1].append(index)
        elif any(char.isalnum() for char in piece):
            words.append([piece.strip(), [index]])
        else:
            continue
        previous = index if not piece[-1:].isspace() else -2
    return [Word(text, tuple(tokens)) for text, tokens in words]


def find_words(hidden: HiddenStates, wanted: str) -> list[Word]:
    """The words a creator named, separated by commas; each with all its occurrences.

    Raises:
        ValueError: if one does not occur in the text among the tokens.
    """
    text, owner = "", []
    for index, (piece, role) in enumerate(zip(hidden.pieces, hidden.roles.tolist())):
        if piece and role < IMAGE:
            text += piece.casefold()
            owner += [index] * len(piece.casefold())
    found = []
    for word in (part.strip() for part in wanted.split(",")):
        if not word:
            continue
        plain = re.escape(word.casefold())
        spans = [m.span() for m in re.finditer(rf"(?<!\w){plain}(?!\w)", text)] or [
            m.span() for m in re.finditer(plain, text)
        ]
        if not spans:
            there = ", ".join(dict.fromkeys(known.text for known in words_of(hidden))) or "none"
            raise ValueError(
                f"The word {quoted(word)} is not among the tokens used; their words are: {printable(there[:300])}."
            )
        found.append(Word(word, tuple(sorted({owner[i] for start, end in spans for i in range(start, end)}))))
    return found


def picture_maps(hidden: HiddenStates, values: torch.Tensor) -> list[torch.Tensor | None]:
    """Values of the image tokens as maps.

    Args:
        hidden: whose ``grids`` say how each picture was cut.
        values: ``(T,)``.

    Returns:
        for each picture ``(rows, columns)`` of its last view, which is the whole picture; None if its tokens are not
        all among those selected.
    """
    maps = []
    for index, grids in enumerate(hidden.grids):
        own = values[hidden.roles == image_role(index)]
        rows, columns = grids[-1]
        whole = own.numel() == sum(r * c for r, c in grids) > 0
        maps.append(own[-rows * columns :].view(rows, columns) if whole else None)
    return maps


def parse_silence(text: str, taps: Sequence[int]) -> list[int]:
    """Layers to silence from a creator's list such as ``"4, 28"``.

    Raises:
        ValueError: if it cannot be read, a layer is not tapped, or nothing would be left.
    """
    try:
        layers = sorted({int(part) for part in text.replace(";", ",").split(",") if part.strip()})
    except ValueError:
        raise ValueError(
            f"Silenced layers must be numbers separated by commas such as '{taps[0]}, {taps[-1]}', found {quoted(text)}."
        ) from None
    foreign = [layer for layer in layers if layer not in taps]
    if foreign:
        raise ValueError(
            f"Layers {', '.join(map(str, foreign))} cannot be silenced: the tapped layers are "
            f"{', '.join(map(str, taps))}."
        )
    if len(layers) == len(taps):
        raise ValueError("Every tapped layer would be silenced; leave at least one.")
    return layers


def relative_change(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """``||after - before|| / ||before||`` of each token: ``(1, T, W)`` twice -> ``(T,)`` float32."""
    before, after = before[0].float(), after[0].float()
    return ((after - before).norm(dim=-1) / before.norm(dim=-1).clamp_min(1e-20)).cpu()


def table(hidden: HiddenStates, view: View, change: torch.Tensor | None = None, silenced: Sequence[int] = ()) -> str:
    """The figures as text: token budget, share and attention of each tap by role, effect of silenced layers.

    Args:
        hidden: what was looked at.
        view: from :func:`look`.
        change: ``(T,)`` relative change of the pooled tokens by silencing, if any.
        silenced: the layers silenced.
    """
    total = hidden.tokens
    budget = ", ".join(f"{count} {role} ({count / total:.0%})" for role, count in hidden.count_by_role().items())
    lines = [f"{hidden.vlm}: {total} tokens, {len(hidden.taps)} layers", f"token budget: {budget}"]
    sections = (
        ("share of each layer in the pooled tokens (|projector weight| x norm), %", view.share),
        ("attention each layer receives in the last layerwise block, %", view.received[-1]),
    )
    for title, values in sections:
        rows = by_role(values, hidden.roles)
        lines += ["", title, "layer  " + "  ".join(f"{name:>11}" for name in rows)]
        for column, tap in enumerate(hidden.taps):
            lines.append(f"{tap:>5}  " + "  ".join(f"{row[column] * 100:>11.1f}" for row in rows.values()))
    if change is not None:
        rows = by_role(change[:, None], hidden.roles)
        lines += [
            "",
            f"silenced: layers {', '.join(map(str, silenced))}; pooled tokens change by "
            + ", ".join(f"{row[0]:.0%} ({name})" for name, row in rows.items()),
        ]
    return "\n".join(lines)
