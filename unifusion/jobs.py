"""What of a picture counts: the whole, or a part of it, as selections and statistics over its tokens and taps.

With ``x[i, k]`` the state of the picture's token i at tap k of K, ``m[k]`` the mean of ``x[i, k]`` over all its tokens, and
"deep" the later half of the taps (k >= K // 2), the rest being "shallow". Jobs act on states that are there, so changing one
costs the encoder nothing. A job of a picture is applied to its tokens alone; the words behind it have still been read with the
whole picture in sight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from .hidden_states import HiddenStates, image_role
from .quoting import quoted

WHOLE, READ_ONLY = "whole", "read, not shown"
TAPS = ("none", "shallow", "deep", "all")  # where states become the mean over the picture's places
TOKENS = ("all", "subject", "ground", "none")  # which of its tokens count


class Job(NamedTuple):
    """One row of the table; plain values, so that a creator's own can stand in a file.

    Attributes:
        name: shown to creators and stored in graphs.
        mean_at: one of :data:`TAPS`: there ``x[i, k]`` becomes ``m[k]``.
        tokens: one of :data:`TOKENS`. A token belongs to the subject if its direction is farther than the mean of all
            tokens from the median direction of the picture's border, else to the ground.
        experimental: whether the miniature did not show that it does what its name says (``python -m bench.picture_jobs``).
    """

    name: str
    mean_at: str = "none"
    tokens: str = "all"
    experimental: bool = False

    @property
    def formula(self) -> str:
        """What counts, in the terms of this module."""
        kept = {"all": "", "none": "no token", "subject": " of the subject", "ground": " of the ground"}[self.tokens]
        if self.tokens == "none":
            return kept
        means = {"none": "x[i, k]", "all": "m[k]"}
        other = "deep" if self.mean_at == "shallow" else "shallow"
        what = means.get(self.mean_at, f"m[k] at {self.mean_at} taps, x[i, k] at {other} ones")
        return what + kept


JOBS: dict[str, Job] = {
    job.name: job
    for job in (
        Job(WHOLE),
        Job("style", mean_at="deep", experimental=True),
        Job("palette", mean_at="all"),
        Job("layout", mean_at="shallow", experimental=True),
        Job("subject", tokens="subject"),
        Job(READ_ONLY, tokens="none"),
    )
}


def named(name: str) -> Job:
    """The row of that name.

    Raises:
        ValueError: if there is none.
    """
    if name not in JOBS:
        raise ValueError(f"A picture has no job {quoted(name)}; choose one of: {', '.join(JOBS)}.")
    return JOBS[name]


def check_parts(mean_at: object, tokens: object) -> None:
    """Raises ValueError unless both are of :data:`TAPS` and :data:`TOKENS`."""
    for what, found, known in (("mean_at", mean_at, TAPS), ("tokens", tokens, TOKENS)):
        if found not in known:
            raise ValueError(f"'{what}' of a picture's job must be one of {', '.join(known)}, found {quoted(found)}.")


def _averaged(states: torch.Tensor, mean_at: str) -> torch.Tensor:
    """``(tokens, taps, width)`` with the mean over places at some taps."""
    half = states.shape[1] // 2
    taps = {"none": slice(0, 0), "shallow": slice(0, half), "deep": slice(half, None), "all": slice(None)}[mean_at]
    changed = states.clone()
    changed[:, taps] = states[:, taps].mean(dim=0, keepdim=True)
    return changed


def _counting(states: torch.Tensor, border: torch.Tensor, tokens: str) -> torch.Tensor:
    """``(tokens,)`` float32: 1 for tokens that count, 0 for the others; all count where none differs."""
    if tokens in ("all", "none"):
        return torch.full((states.shape[0],), float(tokens == "all"))
    directions = torch.nn.functional.normalize(states.flatten(1).float(), dim=1)
    ground = directions[border.to(states.device)].median(dim=0).values
    distance = (directions - ground).norm(dim=1)
    inside = distance > distance.mean()
    if not inside.any():
        return torch.ones(states.shape[0])
    return (inside if tokens == "subject" else ~inside).float().cpu()


def borders(grids: Sequence[tuple[int, int]]) -> torch.Tensor:
    """``(tokens,)`` bool: which tokens of a picture lie on a border of their view.

    Args:
        grids: (rows, columns) of tokens of each view, whose tokens stand in reading order.
    """
    edges = []
    for rows, columns in grids:
        edge = torch.ones(rows, columns, dtype=torch.bool)
        edge[1:-1, 1:-1] = False
        edges.append(edge.flatten())
    return torch.cat(edges)


def with_jobs(hidden: HiddenStates, jobs: Sequence[Job | None]) -> HiddenStates:
    """Hidden states in which every picture counts as its job says.

    Args:
        hidden: all tokens of a sequence, with the ``grids`` of its pictures.
        jobs: one for each picture, None for the whole; where all are whole ``hidden`` itself is returned.
    """
    for index, job in enumerate(jobs):
        if job is None or (job.mean_at, job.tokens) == ("none", "all"):
            continue
        at = (hidden.roles == image_role(index)).nonzero()[:, 0]
        inside = hidden.states[0, at]
        weights, states = hidden.weights.clone(), hidden.states.clone()
        weights[at] *= _counting(inside, borders(hidden.grids[index]), job.tokens)
        states[0, at] = _averaged(inside, job.mean_at)
        hidden = hidden._replace(states=states, weights=weights)
    return hidden


def about(job: Job | None) -> str:
    """A job in words for a report; empty for the whole picture."""
    if job is None or job.name == WHOLE:
        return ""
    return f"job {quoted(job.name)}" + (" (experimental)" if job.experimental else "")
