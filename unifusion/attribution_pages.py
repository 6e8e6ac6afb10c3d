"""Figures of the inspector: matplotlib without a display, pages of one size as tensors."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import matplotlib
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from .attribution import View, Word, by_role, picture_maps
from .hidden_states import HiddenStates

SIZE = (600, 600)  # width, height of a page in pixels: as the node shows it
_STYLE = {
    "text.parse_math": False,  # words may hold dollars
    "font.size": 10.5,
    "axes.titlesize": 12,
    "axes.labelsize": 10.5,
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
_COLOUR_MAP = matplotlib.colormaps["inferno"]
_FINE = 512  # pixels along the longer side of a smooth map
_LAYER = "layer of the vision-language model"
_MOST_WORDS, _MOST_ROLES = 12, 8  # more would not be legible; the table has all roles


def _page(draw) -> torch.Tensor:
    """``(1, height, width, 3)`` float32 in 0..1 from a function that draws on a figure."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(SIZE[0] / 80, SIZE[1] / 80), dpi=80, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        figure.get_layout_engine().set(w_pad=0.15, h_pad=0.15)
        draw(figure)
        canvas.draw()
    return torch.from_numpy(np.asarray(canvas.buffer_rgba())[..., :3].astype(np.float32) / 255)[None]


def _matrix(
    axes, rows: Sequence[tuple[str, torch.Tensor]], taps: Sequence[int], title: str, highest: float = 0.0
) -> None:
    """Named rows of shares over layers, every cell with its percentage.

    Args:
        highest: top of the colour scale, where several matrices show one quantity; 0 = the largest value here.
    """
    values = torch.stack([row for _, row in rows]).float().numpy() * 100
    top = max(highest * 100, values.max(), 1e-6)
    axes.imshow(values, aspect="auto", cmap="viridis", vmin=0, vmax=top)
    axes.set_xticks(range(len(taps)), [str(tap) for tap in taps])
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_title(title, loc="left")
    for y, line in enumerate(values):
        for x, value in enumerate(line):
            axes.text(
                x,
                y,
                f"{value:.0f}",
                ha="center",
                va="center",
                fontsize=9.5,
                color="black" if value > top * 0.6 else "white",
            )


def overview_page(
    hidden: HiddenStates,
    lines: Sequence[str],
    effects: torch.Tensor,
    values: torch.Tensor,
    title: str,
    pictures: Sequence[torch.Tensor],
) -> torch.Tensor:
    """What a creator wants to know: the verdict, what each layer does, and where on the pictures.

    Args:
        hidden: what was looked at.
        lines: the verdict.
        effects: ``(taps,)`` change of the tokens without each layer.
        values, title, pictures: as in :func:`pictures_page`.
    """
    maps = picture_maps(hidden, values)
    seen = any(found is not None for found in maps)

    def draw(figure):
        said = "\n".join(part for line in lines for part in textwrap.wrap(line, 68, subsequent_indent="   "))
        upper, *lower = figure.subfigures(3 if seen else 2, 1, height_ratios=[1.1, 1.3, 1.9] if seen else [1, 2])
        upper.text(0.02, 0.5, said, fontsize=13, va="center", linespacing=1.35)
        axes = lower[0].subplots()
        strongest = int(effects.argmax())
        colours = ["#e15759" if index == strongest else "#4e79a7" for index in range(len(effects))]
        bars = axes.bar(range(len(effects)), effects.float().numpy() * 100, color=colours)
        axes.bar_label(bars, [f"{effect:.0%}" for effect in effects.tolist()], fontsize=9.5)
        axes.set_xticks(range(len(hidden.taps)), [str(tap) for tap in hidden.taps])
        axes.set_yticks([])
        axes.margins(y=0.2)
        axes.spines["left"].set_visible(False)
        axes.set_title("Without this layer the tokens change by", loc="left")
        if seen:
            _heat_maps(lower[1], hidden, maps, title, pictures)

    return _page(draw)


def sizes_page(hidden: HiddenStates, share: torch.Tensor) -> torch.Tensor:
    """Share of each layer ``(tokens, taps)`` in the size of the tokens, by role, where layers are joined as they are."""

    def draw(figure):
        rows = list(by_role(share, hidden.roles).items())[:_MOST_ROLES]
        axes = figure.subplots()
        _matrix(axes, rows, hidden.taps, "Share in the size of the tokens, %")
        axes.set_xlabel(_LAYER)

    return _page(draw)


def layers_page(hidden: HiddenStates, view: View) -> torch.Tensor:
    """Share of each layer in the pooled tokens and the attention it receives, by role."""

    def rows(values):
        return list(by_role(values, hidden.roles).items())[:_MOST_ROLES]

    def draw(figure):
        upper, lower = figure.subplots(2, 1, sharex=True)
        _matrix(upper, rows(view.share), hidden.taps, "Share in the pooled tokens, %")
        _matrix(lower, rows(view.received[-1]), hidden.taps, "Attention received in the last layerwise block, %")
        lower.set_xlabel(_LAYER)

    return _page(draw)


def words_page(hidden: HiddenStates, view: View, words: Sequence[Word]) -> torch.Tensor:
    """Attention over layers of single words, in both layerwise blocks, in one colour scale."""

    def draw(figure):
        if not words:
            return _sentence(figure, "There is no word among the tokens used.")
        shown = words[:_MOST_WORDS]
        blocks = [
            [(word.text[:16], received[list(word.tokens)].mean(dim=0)) for word in shown] for received in view.received
        ]
        highest = max(float(row.max()) for rows in blocks for _, row in rows)
        # One below the other: beside each other twelve layers twice are too narrow to read.
        for axes, rows, name in zip(figure.subplots(2, 1, sharex=True), blocks, ("first", "last")):
            _matrix(axes, rows, hidden.taps, f"Attention in the {name} layerwise block, %", highest)
        axes.set_xlabel(_LAYER)

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
        _heat_maps(figure, hidden, maps, title, pictures)

    return _page(draw)


def _heat_maps(figure, hidden: HiddenStates, maps, title: str, pictures: Sequence[torch.Tensor]) -> None:
    """Smooth maps over the pictures in their own colours, in one scale with one legend."""
    columns = min(len(maps), 3) if len(maps) != 4 else 2
    rows = -(-len(maps) // columns)
    low = min(float(found.min()) for found in maps if found is not None)
    high = max(float(found.max()) for found in maps if found is not None)
    scale = Normalize(low, max(high, low + 1e-9))
    for index, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.axis("off")
        if index >= len(maps):
            continue
        axes.set_title(f"image {index + 1}" + ("" if maps[index] is not None else ": not selected"))
        height, width = hidden.grids[index][-1]
        extent = (0, width, height, 0)
        under = index < len(pictures)
        if under:
            picture = pictures[index][0, ..., :3].float().cpu().clamp(0, 1)
            axes.imshow(picture.expand(*picture.shape[:2], 3).numpy(), extent=extent)
        if maps[index] is not None:
            smooth = _smooth(maps[index]).clamp(low, max(high, low + 1e-9)).numpy()
            axes.imshow(_COLOUR_MAP(scale(smooth), alpha=scale(smooth) * 0.75 if under else None), extent=extent)
    bar = figure.colorbar(
        ScalarMappable(scale, _COLOUR_MAP), ax=figure.axes, location="bottom", aspect=40, shrink=0.7, pad=0.03
    )
    bar.ax.xaxis.set_major_formatter(lambda value, _: f"{value * 100:.3g}%")
    figure.suptitle(title, fontsize=12, x=0.02, ha="left")


def _smooth(found: torch.Tensor) -> torch.Tensor:
    """A map of tokens ``(rows, columns)``, at most 512 pixels on a side and at least one a token."""
    factor = max(1, _FINE // max(found.shape))
    size = [side * factor for side in found.shape]
    return torch.nn.functional.interpolate(found.float()[None, None], size, mode="bicubic", align_corners=False)[0, 0]


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
    figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=14)
