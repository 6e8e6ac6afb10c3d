"""What of a picture counts: the whole, or a part of it, as selections and statistics over its tokens and taps.

With ``x[i, k]`` the state of the picture's token i at tap k of K, ``m[k]`` the mean of ``x[i, k]`` over all its tokens, and
"deep" the later half of the taps (k >= K // 2), the rest being "shallow". Jobs act on states that are there, so changing one
costs the encoder nothing. A job of a picture is applied to its tokens alone; the words behind it have still been read with the
whole picture in sight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from .hidden_states import HiddenStates, image_role
from .quoting import quoted

WHOLE, READ_ONLY = "whole", "read, not shown"


class Job(NamedTuple):
    """One row of the table.

    Attributes:
        formula: what becomes of ``x[i, k]``, for reports and documents.
        act: (states ``(tokens, taps, width)`` of one picture, for each token whether it is on a border of its view) ->
            (states, factor of each token's weight ``(tokens,)``).
        measured: what moved and what stayed on the miniature (``python -m bench.picture_jobs``).
        experimental: whether the miniature did not show that it does what its name says.
    """

    formula: str
    act: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
    measured: str = ""
    experimental: bool = False


def _all(states: torch.Tensor) -> torch.Tensor:
    return torch.ones(states.shape[0])


def _whole(states, _border):
    return states, _all(states)


def _mean(states: torch.Tensor, taps: slice) -> tuple[torch.Tensor, torch.Tensor]:
    changed = states.clone()
    changed[:, taps] = states[:, taps].mean(dim=0, keepdim=True)
    return changed, _all(states)


def _palette(states, _border):
    return _mean(states, slice(None))


def _style(states, _border):
    return _mean(states, slice(states.shape[1] // 2, None))


def _layout(states, _border):
    return _mean(states, slice(0, states.shape[1] // 2))


def _subject(states, border):
    directions = torch.nn.functional.normalize(states.flatten(1).float(), dim=1)
    ground = directions[border].median(dim=0).values
    distance = (directions - ground).norm(dim=1)
    inside = distance > distance.mean()
    return states, (inside.float() if inside.any() else _all(states)).cpu()


def _read_only(states, _border):
    return states, torch.zeros(states.shape[0])


JOBS: dict[str, Job] = {
    WHOLE: Job("x[i, k]: everything", _whole),
    "style": Job("m[k] at deep taps, x[i, k] at shallow ones", _style, experimental=True),
    "palette": Job("m[k] at every tap", _palette),
    "layout": Job("m[k] at shallow taps, x[i, k] at deep ones", _layout, experimental=True),
    "subject": Job(
        "x[i, k] of tokens farther than the mean from the median direction of the picture's border", _subject
    ),
    READ_ONLY: Job("no token: read with the words, left out of the conditioning", _read_only),
}


def check_job(job: str) -> str:
    """The job itself.

    Raises:
        ValueError: if there is none of that name.
    """
    if job not in JOBS:
        raise ValueError(f"A picture has no job {quoted(job)}; choose one of: {', '.join(JOBS)}.")
    return job


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


def with_jobs(hidden: HiddenStates, jobs: Sequence[str]) -> HiddenStates:
    """Hidden states in which every picture counts as its job says.

    Args:
        hidden: all tokens of a sequence, with the ``grids`` of its pictures.
        jobs: one for each picture, keys of :data:`JOBS`; with :data:`WHOLE` alone ``hidden`` itself is returned.
    """
    for index, name in enumerate(jobs):
        if check_job(name) == WHOLE:
            continue
        at = (hidden.roles == image_role(index)).nonzero()[:, 0]
        inside, factors = JOBS[name].act(hidden.states[0, at], borders(hidden.grids[index])[: len(at)])
        weights = hidden.weights.clone()
        weights[at] *= factors
        states = hidden.states.clone()
        states[0, at] = inside
        hidden = hidden._replace(states=states, weights=weights)
    return hidden


def about(job: str) -> str:
    """A job in words for a report; empty for the whole picture."""
    if job in ("", WHOLE):
        return ""
    return f"job '{job}'" + (" (experimental)" if JOBS[job].experimental else "")
