"""Figures of the inspector: matplotlib without a display, pages of one size as tensors."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .attribution import View, Word, by_role, picture_maps
from .hidden_states import HiddenStates

SIZE = (1024, 768)  # width, height of a page in pixels; text stays legible when the node shows it at half of that
_STYLE = {
    "text.parse_math": False,  # words may hold dollars
    "font.size": 17,
    "axes.titlesize": 20,
    "axes.labelsize": 17,
    "figure.facecolor": "#ffffff",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.sans-serif": [
        "Noto Sans CJK SC",
        "Noto Sans CJK JP",
        "Microsoft YaHei",
        "PingFang SC",
        "Hiragino Sans",
        "DejaVu Sans",
    ],
}
_COLOURS = ("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#76b7b2", "#edc948", "#b07aa1", "#9c755f", "#ff9da7")
_MOST_WORDS, _MOST_ROLES = 16, 8  # more would not be legible; the table has all roles


def _page(draw) -> torch.Tensor:
    """``(1, height, width, 3)`` float32 in 0..1 from a function that draws on a figure."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(SIZE[0] / 80, SIZE[1] / 80), dpi=80, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        figure.get_layout_engine().set(w_pad=0.15, h_pad=0.15)
        draw(figure)
        canvas.draw()
    return torch.from_numpy(np.asarray(canvas.buffer_rgba())[..., :3].astype(np.float32) / 255)[None]


def _matrix(axes, rows: Sequence[tuple[str, torch.Tensor]], taps: Sequence[int], title: str) -> None:
    """Named rows of shares over layers, every cell with its percentage."""
    values = torch.stack([row for _, row in rows]).float().numpy() * 100
    axes.imshow(values, aspect="auto", cmap="viridis", vmin=0, vmax=max(values.max(), 1e-6))
    axes.set_xticks(range(len(taps)), [str(tap) for tap in taps])
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_xlabel("layer of the vision-language model")
    axes.set_title(title, loc="left")
    bright = values.max() * 0.6
    for y, line in enumerate(values):
        for x, value in enumerate(line):
            axes.text(
                x,
                y,
                f"{value:.0f}",
                ha="center",
                va="center",
                fontsize=15,
                color="black" if value > bright else "white",
            )


def sizes_page(hidden: HiddenStates, share: torch.Tensor) -> torch.Tensor:
    """Share of each layer ``(tokens, taps)`` in the size of the tokens, by role, where layers are joined as they are."""

    def draw(figure):
        rows = list(by_role(share, hidden.roles).items())[:_MOST_ROLES]
        _matrix(figure.subplots(), rows, hidden.taps, "Share in the size of the tokens, %")

    return _page(draw)


def layers_page(hidden: HiddenStates, view: View) -> torch.Tensor:
    """Share of each layer in the pooled tokens and the attention it receives, by role."""

    def rows(values):
        return list(by_role(values, hidden.roles).items())[:_MOST_ROLES]

    def draw(figure):
        upper, lower = figure.subplots(2, 1)
        _matrix(upper, rows(view.share), hidden.taps, "Share in the pooled tokens, %")
        _matrix(lower, rows(view.received[-1]), hidden.taps, "Attention received in the last layerwise block, %")

    return _page(draw)


def words_page(hidden: HiddenStates, view: View, words: Sequence[Word]) -> torch.Tensor:
    """Attention over layers of single words, in both layerwise blocks."""

    def draw(figure):
        if not words:
            return _sentence(figure, "There is no word among the tokens used.")
        for axes, received, name in zip(figure.subplots(1, 2, sharey=True), view.received, ("first", "last")):
            rows = [(word.text[:16], received[list(word.tokens)].mean(dim=0)) for word in words[:_MOST_WORDS]]
            _matrix(axes, rows, hidden.taps, f"{name.capitalize()} layerwise block, %")

    return _page(draw)


def pictures_page(
    hidden: HiddenStates, values: torch.Tensor, title: str, pictures: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Heat maps over the reference pictures.

    Args:
        hidden: whose image tokens are shown.
        values: ``(T,)`` value of every token.
        title: what the values are.
        pictures: ``(1, height, width, 3)`` under each map; may be fewer than the maps, then maps stand alone.
    """
    maps = picture_maps(hidden, values)

    def draw(figure):
        if not any(found is not None for found in maps):
            return _sentence(
                figure,
                "No picture is among the tokens used." if not maps else "The tokens of the pictures are not selected.",
            )
        columns = min(len(maps), 3) if len(maps) != 4 else 2
        rows = -(-len(maps) // columns)
        low = min(float(found.min()) for found in maps if found is not None)
        high = max(float(found.max()) for found in maps if found is not None)
        shown = None
        for index, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
            axes.axis("off")
            if index >= len(maps):
                continue
            axes.set_title(f"image {index + 1}" + ("" if maps[index] is not None else ": not selected"))
            height, width = hidden.grids[index][-1]
            extent = (0, width, height, 0)
            if index < len(pictures):
                grey = pictures[index][0].float().cpu().mean(dim=-1).numpy()
                axes.imshow(grey, cmap="gray", vmin=0, vmax=1, extent=extent)
            if maps[index] is not None:
                shown = axes.imshow(
                    maps[index].float().numpy(),
                    cmap="inferno",
                    vmin=low,
                    vmax=max(high, low + 1e-9),
                    extent=extent,
                    alpha=0.6 if index < len(pictures) else 1.0,
                )
        bar = figure.colorbar(shown, ax=figure.axes, shrink=0.8)
        bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value * 100:.3g}%")
        figure.suptitle(title, fontsize=20)

    return _page(draw)


def tokens_page(hidden: HiddenStates) -> torch.Tensor:
    """Token budget by role."""

    def draw(figure):
        axes = figure.subplots()
        counts = list(hidden.count_by_role().items())
        axes.barh(
            [name for name, _ in counts],
            [count for _, count in counts],
            color=[_COLOURS[i % len(_COLOURS)] for i in range(len(counts))],
        )
        axes.invert_yaxis()
        for y, (_, count) in enumerate(counts):
            axes.text(count, y, f" {count} ({count / hidden.tokens:.0%})", va="center")
        axes.set_xlim(0, max(count for _, count in counts) * 1.3)
        axes.set_xlabel("tokens")
        axes.set_title(
            f"Token budget: {hidden.tokens} tokens, {hidden.nbytes / 2**20:.1f} MB of hidden states", loc="left"
        )

    return _page(draw)


def _sentence(figure, text: str) -> None:
    figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=22)
