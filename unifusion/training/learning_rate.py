"""The course of the learning rate in every training here: up in a line, level, down in a line."""


def factor(step: int, steps: int, *, warmup: int, decay: float, floor: float) -> float:
    """Factor on the peak rate of a step, counted from 0.

    Args:
        steps: of the whole training.
        warmup: steps of the way up.
        decay: share of the steps that the way down takes.
        floor: least factor on the way down.
    """
    remaining = (steps - step) / max(1.0, decay * steps)
    return min(1.0, (step + 1) / max(1, warmup), max(floor, remaining))
