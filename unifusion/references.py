"""Pictures that condition a picture: labels, strengths, token budgets, tiles.

A :class:`Reference` carries the picture itself, because only the encoder knows how large its drawing model wants
pictures to be (16 tokens for the miniature, 144 for Krea 2); :func:`prepare` makes the views once that is known.

Sizes are counted in tokens of the VLM: one token covers 32 x 32 pixels of a view (Qwen3-VL: patches of 16 pixels,
merged two by two).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import log
from typing import NamedTuple

import torch
import torch.nn.functional as F

from .jobs import Job, about
from .limits import LONGEST_LABEL
from .profiles import PROFILES, Profile
from .quoting import quoted

TOKEN = 32  # pixels along one side of a token
LEAST_TOKENS = 4  # of a view; Qwen's preprocessing enlarges anything below 56 x 56 pixels to this
MOST_PIXELS = 2**24  # kept of a picture; larger ones are brought down first

# Detail settings, shown to creators and stored in graphs: most views of a picture. The paper's 1, 5 and 10 tiles are
# read as 0, 2 x 2 and 3 x 3 patches and the whole picture (its text does not say whether the thumbnail is counted).
DETAILS = {"one view": 1, **{f"{count} tiles": count for count in range(3, 11)}}
AS_COMBINE = "default"
LEAST_STRENGTH = -2.0

NO_LABELS, OWN_LABELS = "none", "own labels"
LABEL_STYLES = (OWN_LABELS, "Image 1:", "Picture 1:", NO_LABELS)


class Reference(NamedTuple):
    """One picture and how it shall count.

    Attributes:
        picture: ``(1, height, width, 3)`` float32 in 0..1.
        label: words the prompt may use for it, e.g. ``"Image 1"``; empty for none.
        strength: weight of its tokens; 1 = neutral, 2 = as if given twice, 0 = removed, below 0 = away from it.
        tiles: most views of it: 1 = the picture alone, n = up to n - 1 patches and then the whole; 0 = not set.
        tokens: VLM tokens of each view; 0 = what the encoder's profile gives a picture.
        start, end: part of the schedule in which it counts, 0..1.
        note: what was changed on the way here, for reports; empty for nothing.
        name: what the prompt may call it as ``@name``, kept where labels are left out; empty for none.
        job: what of it counts; None = not set.
    """

    picture: torch.Tensor
    label: str = ""
    strength: float = 1.0
    tiles: int = 0
    tokens: int = 0
    start: float = 0.0
    end: float = 1.0
    note: str = ""
    name: str = ""
    job: Job | None = None


class PreparedReference(NamedTuple):
    """A reference as the VLM sees it.

    Attributes:
        views: each ``(1, height, width, 3)`` float32 in 0..1, sides multiples of 32; patches first, the whole last.
        label, strength, start, end, note, job, name: as in :class:`Reference`.
        size: (height, width) of the picture.
        token: pixels along one side of a token of this encoder.
    """

    views: tuple[torch.Tensor, ...]
    label: str = ""
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0
    note: str = ""
    size: tuple[int, int] = (0, 0)
    token: int = TOKEN
    job: Job | None = None
    name: str = ""

    @property
    def tokens(self) -> int:
        """VLM tokens of all views."""
        return sum(rows * columns for rows, columns in self.grids)

    @property
    def grids(self) -> list[tuple[int, int]]:
        """(rows, columns) of tokens of each view."""
        return [(round(view.shape[1] / self.token), round(view.shape[2] / self.token)) for view in self.views]


def check_picture(picture: torch.Tensor, name: str) -> torch.Tensor:
    """RGB of one picture; transparency is put on white.

    Args:
        picture: ``(1, height, width, 1, 3 or 4)`` in 0..1.
        name: how to call it in errors.

    Returns:
        ``(1, height, width, 3)`` float32 in 0..1.

    Raises:
        ValueError: if it is not a picture or contains NaN.
    """
    if picture.ndim != 4 or picture.shape[-1] not in (1, 3, 4) or 0 in picture.shape:
        raise ValueError(
            f"{name} is not a picture: its shape is {tuple(picture.shape)}, expected (1, height, width, "
            f"3 or 4). Connect an IMAGE of a loader or a VAE Decode."
        )
    if not all(map(torch.isfinite, torch.aminmax(picture))):  # a tenth of the time of isfinite on every pixel
        raise ValueError(f"{name} contains NaN or infinite pixels; check the node it comes from.")
    picture = picture.float()
    if picture.shape[-1] == 4:
        rgb, alpha = picture[..., :3], picture[..., 3:].clamp(0, 1)
        picture = rgb * alpha + (1 - alpha)
    return picture.expand(*picture.shape[:3], 3)


def resize(picture: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """``(1, height, width, 3)`` float32 in 0..1 to another (height, width), without aliasing."""
    resized = F.interpolate(picture.movedim(-1, 1), size=size, mode="bicubic", antialias=True, align_corners=False)
    return resized.clamp(0, 1).movedim(1, -1)


def from_batch(
    batch: torch.Tensor,
    name: str,
    label: str = "",
    strength: float = 1.0,
    tiles: int = 0,
    start: float = 0.0,
    end: float = 1.0,
    job: Job | None = None,
) -> list[Reference]:
    """References from a ComfyUI image batch: every picture of it is one, a label is then numbered.

    Args:
        batch: ``(batch, height, width, channels)`` in 0..1.
        name: how to call it in errors.
        label, strength, tiles, start, end, job: as in :class:`Reference`.

    Raises:
        ValueError: for something that is no picture, a strength below :data:`LEAST_STRENGTH`, a label that is no plain
            text, or an empty range.
    """
    if not LEAST_STRENGTH <= strength < float("inf"):
        raise ValueError(
            f"The strength of a reference must be {LEAST_STRENGTH:g} or more, found {strength}: 1 is neutral, 2 counts twice, "
            f"0 removes, below 0 draws away from it."
        )
    if not 0 <= start < end <= 1:
        raise ValueError(
            f"A reference must count in some part of the schedule: found start {start:g} and end {end:g}, "
            f"expected 0 <= start < end <= 1."
        )
    label = checked_label(label)
    if batch.ndim == 3:
        batch = batch[None]
    made = []
    for number in range(batch.shape[0]):
        which = name if batch.shape[0] == 1 else f"{name}, picture {number + 1} of {batch.shape[0]},"
        one = batch[number : number + 1]
        notes = []
        height, width = one.shape[1:3] if one.ndim == 4 else (0, 0)
        if one.ndim == 4 and one.shape[-1] == 4:
            notes.append("transparency put on white")
        picture = check_picture(one, which)
        if height * width > MOST_PIXELS:
            scale = (MOST_PIXELS / (height * width)) ** 0.5
            size = (max(1, int(height * scale)), max(1, int(width * scale)))
            picture = resize(picture, size)
            notes.append(f"{width} x {height} pixels brought to {size[1]} x {size[0]} first")
        numbered = f"{label} {number + 1}" if label and batch.shape[0] > 1 else label
        made.append(
            Reference(picture.clamp(0, 1), numbered, strength, tiles, 0, start, end, "; ".join(notes), numbered, job)
        )
    if not made:
        raise ValueError(f"{name} is an empty batch: its shape is {tuple(batch.shape)}, expected at least one picture.")
    return made


def from_images(images: dict[str, torch.Tensor | None]) -> list[Reference]:
    """Neutral references from the sockets of a node, in the order of their numbers; unconnected ones are left out.

    Args:
        images: name of the socket, such as ``"image0"`` -> ``(batch, height, width, channels)``.
    """

    def number(name: str) -> int:
        return int(re.sub(r"\D", "", name) or 0)

    present = [(name, images[name]) for name in sorted(images, key=number) if images[name] is not None]
    return [reference for name, batch in present for reference in from_batch(batch, name)]


def checked_label(label: str) -> str:
    """A label is words in front of a picture; control tokens in it would break the chat."""
    label = label.strip().rstrip(":").rstrip()
    if "<" in label or ">" in label or not label.isprintable():
        raise ValueError(
            f"A label must be plain words on one line such as 'the dog', without < and >; found {quoted(label)}."
        )
    if len(label) > LONGEST_LABEL:
        raise ValueError(
            f"A label must be a short name of at most {LONGEST_LABEL} characters such as 'the dog'; {quoted(label)} has "
            f"{len(label)}."
        )
    return label


def combine(
    references: Sequence[Reference], budget: int = 0, tiles: int = 1, labels: str = OWN_LABELS, job: Job | None = None
) -> list[Reference]:
    """Give references one common setting.

    Args:
        references: in order.
        budget: VLM tokens shared by all views of all pictures, each view getting the same share; 0 leaves the size to
            the encoder's profile.
        tiles, job: for references without a setting of their own.
        labels: one of :data:`LABEL_STYLES`. A numbered style is given to pictures without a label of their own, so
            that names in the prompt stay valid.

    Raises:
        ValueError: if there is no reference, two have the same label, or the budget is too small for the views.
    """
    if not references:
        raise ValueError("There is no picture: connect at least one image, or references from a Reference node.")
    set_up = [reference._replace(tiles=reference.tiles or tiles, job=reference.job or job) for reference in references]
    views = sum(count_views(reference.picture, reference.tiles) for reference in set_up)
    if budget and budget < LEAST_TOKENS * views:
        raise ValueError(
            f"A budget of {budget} tokens is too small for {_count(len(set_up), 'picture')} with "
            f"{_count(views, 'view')}: every view needs at least {LEAST_TOKENS} tokens, together "
            f"{LEAST_TOKENS * views}. Raise the budget, lower the detail or connect fewer pictures."
        )
    if budget:
        set_up = [reference._replace(tokens=budget // views) for reference in set_up]
    if labels == NO_LABELS:
        return [reference._replace(label="") for reference in set_up]
    if labels != OWN_LABELS:
        if labels not in LABEL_STYLES:
            raise ValueError(f"There is no label style {quoted(labels)}; use one of: {', '.join(LABEL_STYLES)}.")
        word = labels.split()[0]
        set_up = [
            reference._replace(label=reference.label or f"{word} {number}")
            for number, reference in enumerate(set_up, 1)
        ]
    named = [reference.label.lower() for reference in set_up if reference.label]
    if twice := sorted({label for label in named if named.count(label) > 1}):
        raise ValueError(
            f"Two references have the label {quoted(twice[0])}, so the prompt cannot tell them apart. Give each "
            f"its own label."
        )
    return set_up


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")


def token_grid(height: int, width: int, tokens: int) -> tuple[int, int]:
    """Rows and columns of a view: the shape of the picture, at most ``tokens`` in all.

    The cost is the error of the log aspect plus 0.3 times the log share of the budget left unused: a picture is rather
    a little smaller than out of shape.

    Args:
        height, width: of the picture, in pixels.
        tokens: at least :data:`LEAST_TOKENS`.
    """
    wanted = log(width / height)
    best, least = (2, 2), float("inf")
    for rows in range(1, tokens + 1):
        exact = rows * width / height
        for columns in {max(1, min(int(exact), tokens // rows)), max(1, min(int(exact) + 1, tokens // rows))}:
            if LEAST_TOKENS <= rows * columns <= tokens:
                cost = abs(log(columns / rows) - wanted) + 0.3 * log(tokens / (rows * columns))
                if cost < least - 1e-9:
                    best, least = (rows, columns), cost
    return best


def fit(picture: torch.Tensor, tokens: int) -> torch.Tensor:
    """A view of at most ``tokens`` tokens; smaller pictures are enlarged to it.

    Args:
        picture: ``(1, height, width, 3)`` float32 in 0..1.

    Returns:
        ``(1, 32 rows, 32 columns, 3)`` float32.
    """
    rows, columns = token_grid(picture.shape[1], picture.shape[2], tokens)
    size = (rows * TOKEN, columns * TOKEN)
    return picture if picture.shape[1:3] == size else resize(picture, size)


def tile_grid(height: int, width: int, tiles: int) -> tuple[int, int]:
    """(down, across) patches of a picture of which at most ``tiles`` views may be made, the whole one included.

    As many patches as possible whose sides differ at most two to one, of these the squarest; (1, 1), meaning the
    picture alone, where patches would be smaller than a token.
    """
    best, score = (1, 1), (1, 0.0)
    for down in range(1, min(tiles - 1, height // TOKEN) + 1):
        for across in range(1, min((tiles - 1) // down, width // TOKEN) + 1):
            stretch = abs(log((width / across) / (height / down)))
            if down * across > 1 and stretch <= log(2) + 1e-9 and (down * across, -stretch) > score:
                best, score = (down, across), (down * across, -stretch)
    return best


def count_views(picture: torch.Tensor, tiles: int) -> int:
    """Views that :func:`prepare` makes of a picture ``(1, height, width, 3)``."""
    down, across = tile_grid(picture.shape[1], picture.shape[2], max(1, tiles))
    return down * across + 1 if down * across > 1 else 1


def patches(picture: torch.Tensor, tiles: int) -> list[torch.Tensor]:
    """Patches of a picture in reading order, cut without loss; none if it stays whole."""
    height, width = picture.shape[1:3]
    down, across = tile_grid(height, width, max(1, tiles))
    if down * across == 1:
        return []
    ys = [round(i * height / down) for i in range(down + 1)]
    xs = [round(i * width / across) for i in range(across + 1)]
    return [picture[:, top:bottom, left:right] for top, bottom in zip(ys, ys[1:]) for left, right in zip(xs, xs[1:])]


def prepare(reference: Reference, tokens: int) -> PreparedReference:
    """Make the views: patches first and the whole picture last (paper, image tiles).

    Args:
        reference: as it comes from a socket.
        tokens: of each view, where the reference does not say.
    """
    tokens = max(LEAST_TOKENS, reference.tokens or tokens)
    pieces = [*patches(reference.picture, reference.tiles), reference.picture]
    views = tuple(fit(piece, tokens) for piece in pieces)
    height, width = reference.picture.shape[1:3]
    notes = [reference.note] if reference.note else []
    shown = views[-1].shape[1:3]
    if height * width < shown[0] * shown[1] // 4:
        notes.append(f"enlarged from {width} x {height} pixels, which adds no detail")
    if abs(log(shown[1] / shown[0] * height / width)) > log(1.25):
        notes.append(
            f"its shape {width}:{height} does not fit {tokens} tokens; seen as {shown[1] // TOKEN}:{shown[0] // TOKEN}"
        )
    if reference.tiles > 1 and len(views) == 1:
        notes.append("too small to be cut into tiles")
    return PreparedReference(
        views,
        reference.label,
        reference.strength,
        reference.start,
        reference.end,
        "; ".join(notes),
        (height, width),
        job=reference.job,
        name=reference.name,
    )


def prepare_as(
    reference: Reference, profile: Profile, number: int, token: int = TOKEN, side: int = 0
) -> PreparedReference:
    """:func:`prepare` in the way a drawing model was trained with, where the reference does not say otherwise.

    Args:
        reference: as it comes from a socket.
        profile: the model's.
        number: of the picture, from 1, for the model's own label.
        token: pixels along one side of a token of its encoder.
        side: pixels of both sides of every view, where the encoder has learned one size alone; 0 = any.
    """
    prepared = prepare(reference, profile.image_pixels // TOKEN**2)
    if profile.picture_rule is not None and not reference.tokens and reference.tiles <= 1:
        note = reference.note
        prepared = prepared._replace(views=(profile.picture_rule(reference.picture),), note=note)
    if side:
        prepared = _squared(prepared, reference, profile.title, side)
    label = reference.label or profile.label.format(number)
    return prepared._replace(label=label, token=token)


def _squared(prepared: PreparedReference, reference: Reference, title: str, side: int) -> PreparedReference:
    """Every view at the one size that the encoder has learned; said where that changes what was asked for."""
    pieces = [*patches(reference.picture, reference.tiles), reference.picture]
    views = tuple(piece if piece.shape[1:3] == (side, side) else resize(piece, (side, side)) for piece in pieces)
    height, width = reference.picture.shape[1:3]
    notes = [reference.note] if reference.note else []
    if abs(log(width / height)) > log(1.25):
        notes.append(f"its shape {width}:{height} is seen as a square, all that {title} knows")
    if reference.tokens and reference.tokens != (side // TOKEN) ** 2:
        notes.append(f"the token budget does not count: {title} reads every view as {(side // TOKEN) ** 2} tokens")
    return prepared._replace(views=views, note="; ".join(notes))


def unknown_labels(prompt: str, references: Sequence[Reference | PreparedReference]) -> list[str]:
    """Numbered names such as ``"Image 3"`` in the prompt for which there is no picture: by label, or by its place."""
    known = {reference.label.lower() for reference in references}
    unnamed = [number for number, reference in enumerate(references, 1) if not reference.label]
    known |= {f"{word} {number}" for word in ("image", "picture") for number in unnamed}
    numbered = re.findall(r"\b(image|picture)\s+(\d{1,3})\b", prompt, re.IGNORECASE)
    found = [f"{word} {int(number)}" for word, number in numbered]
    return [label for label in dict.fromkeys(found) if label.lower() not in known]


def describe(reference: Reference | PreparedReference) -> str:
    """Strength, job, range and notes in words; empty where all is neutral."""
    parts = []
    if reference.strength != 1:
        how = (
            " (removed)"
            if reference.strength == 0
            else " (away from it; experimental)"
            if reference.strength < 0
            else ""
        )
        parts.append(f"strength {reference.strength:g}{how}")
    if job := about(reference.job):
        parts.append(job)
    if (reference.start, reference.end) != (0.0, 1.0):
        parts.append(f"from {reference.start:.0%} to {reference.end:.0%} of the schedule")
    if reference.note:
        parts.append(reference.note)
    return "; ".join(parts)


def prepared_lines(references: Sequence[PreparedReference]) -> list[str]:
    """Report: one line for each picture."""
    lines = []
    for number, reference in enumerate(references, 1):
        called = reference.label or reference.name
        label = f" '{called}'" if called else ""
        *parts, whole = [f"{rows} x {columns}" for rows, columns in reference.grids]
        grids = f"{len(parts)} patches of about {parts[0]} and the whole of {whole}" if parts else whole
        how = describe(reference) or ("read in patches" if parts else "read whole")
        lines.append(f"image {number}{label}: {how}; {grids} = {reference.tokens} tokens")
    return lines


def sizes_by_profile() -> dict[str, int]:
    """Tokens that each profile gives a view, by the profile's title."""
    return {profile.title: profile.image_pixels // TOKEN**2 for profile in PROFILES.values()}


def combined_lines(references: Sequence[Reference], budget: int) -> list[str]:
    """Report of :func:`combine`."""
    sizes = sizes_by_profile()
    prepared = [prepare(reference, max(sizes.values())) for reference in references]
    if budget:
        used = sum(reference.tokens for reference in prepared)
        return [*prepared_lines(prepared), f"budget: {used} of {budget} tokens, at most {references[0].tokens} a view"]
    most = max(sizes.values())
    others = ", ".join(f"{tokens} for {title}" for title, tokens in sizes.items() if tokens != most)
    lines = [f"size: each picture is read as large as its model wants it (budget 0: {most} tokens, {others})"]
    if all(reference.tokens for reference in references):
        lines = []  # a Combine in front has set the sizes
    return [*prepared_lines(prepared), *lines]
