"""Conditioning of models without pooling inside that carries weights and parts of the schedule.

Its tensor must stay what ComfyUI's own text encoding hands on, so that stock nodes can join it with any other
conditioning of the model. The features of ``token_features`` therefore travel beside the numbers, on the tensor itself,
and whatever cuts, joins, pads or averages the tensor does the same to them. What they could not follow is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from . import token_features

# What only asks about the tensor, and may be told of its numbers alone.
_ASKS = frozenset(
    "__get__ size dim ndimension numel nelement element_size stride storage_offset is_contiguous get_device __len__ "
    "__repr__ __str__ __format__ __hash__ is_floating_point is_complex is_inference is_pinned is_shared has_names "
    "isfinite isnan isinf mean std var norm linalg_norm linalg_vector_norm sum amax amin max min eq ne count_nonzero any "
    "all zeros_like ones_like empty_like full_like rand_like randn_like new_zeros new_ones new_empty new_tensor new_full "
    "result_type can_cast is_same_size".split()
)
# What moves whole tokens, or multiplies all of them by one number, as ComfyUI's mean of two conditionings does.
_FOLLOWS = frozenset(
    "__getitem__ narrow select split chunk tensor_split unbind index_select to cpu cuda float half bfloat16 double type "
    "type_as clone contiguous detach repeat tile expand broadcast_to repeat_interleave pad unsqueeze squeeze mul __mul__ "
    "__rmul__ multiply div true_divide divide __truediv__ neg __deepcopy__ pin_memory".split()
)
# What meets other conditioning; numbers without features are neutral.
_SUMS = frozenset("add __add__ __radd__ sub subtract rsub __sub__ __rsub__".split())
_JOINS = _SUMS | {"cat", "concat", "concatenate", "stack", "lerp"}
_SCALES = frozenset("mul __mul__ __rmul__ multiply div true_divide divide __truediv__".split())


class WeighedTokens(torch.Tensor):
    """``(B, T, W)`` numbers with ``(B, T, token_features.FEATURES)`` features beside them.

    Attributes:
        features: as in ``token_features``.
    """

    features: torch.Tensor

    @staticmethod
    def __new__(cls, tokens: torch.Tensor, features: torch.Tensor) -> WeighedTokens:
        made = tokens.as_subclass(cls)
        made.features = features
        return made

    def __init__(self, tokens: torch.Tensor, features: torch.Tensor):
        super().__init__()

    def columns(self) -> torch.Tensor:
        """``(B, T, W + FEATURES)``, a plain tensor: features as columns behind the numbers, as files hold them."""
        return torch.cat([plain(self), self.features.to(self.dtype)], dim=-1)

    def read(self) -> token_features.Carried:
        """What the features say.

        Raises:
            ValueError: as :func:`token_features.read`.
        """
        return token_features.read(plain(self), self.features)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(self.unbind(0))

    def __reduce_ex__(self, protocol):
        return WeighedTokens, (plain(self), self.features)

    @classmethod
    def __torch_function__(cls, func: Callable, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        if name == "equal":
            return _equal(*args)
        if name not in _ASKS | _FOLLOWS | _JOINS:
            raise ValueError(_lost(name))
        numbers = _each(args, plain), _each(kwargs, plain)
        with torch._C.DisableTorchFunctionSubclass():
            out = func(*numbers[0], **numbers[1])
            if name in _ASKS:
                if name == "__get__" and isinstance(out, torch.Tensor):  # ``.data``, ``.T``
                    raise ValueError(_lost("data"))
                return out
            width = next(value.shape[-1] for value in _tensors((args, kwargs)) if isinstance(value, cls))
            beside = _partner(name, width)
            operands = _each(args, beside)
            if name in _SUMS:  # a number added to every number of the text
                operands = tuple(0 if isinstance(value, (int, float)) else value for value in operands)
            followed = func(*operands, **_each(kwargs, beside))
            return _together(out, followed, width, name)


def with_features(tokens: torch.Tensor, weights: torch.Tensor, spans: torch.Tensor) -> torch.Tensor:
    """Tokens that carry their weights and parts of the schedule; the tokens themselves if all are neutral.

    Args:
        tokens: ``(B, T, W)``.
        weights: ``(T,)``.
        spans: ``(T, 2)``.
    """
    features = token_features.features(weights, spans).to(tokens.device)
    return WeighedTokens(tokens, features[None].expand(tokens.shape[0], -1, -1)) if features.any() else tokens


def from_columns(columns: torch.Tensor) -> WeighedTokens:
    """The inverse of :meth:`WeighedTokens.columns`.

    Raises:
        ValueError: if there are not enough columns.
    """
    width = columns.shape[-1] - token_features.FEATURES
    if columns.ndim != 3 or width < 1:
        raise ValueError(
            f"Conditioning with weights must be (1, tokens, numbers and {token_features.FEATURES} more), found "
            f"{tuple(columns.shape)}: the file is damaged. Save the conditioning again."
        )
    return WeighedTokens(columns[..., :width].contiguous(), columns[..., width:].float())


def plain(value):
    """The numbers of a tensor without features; anything else as it is."""
    if not isinstance(value, WeighedTokens):
        return value
    with torch._C.DisableTorchFunctionSubclass():
        return value.as_subclass(torch.Tensor)


def _each(value, change: Callable):
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        return type(value)(_each(part, change) for part in value)
    if isinstance(value, dict):
        return {key: _each(part, change) for key, part in value.items()}
    return change(value)


def _tensors(value) -> Iterator[torch.Tensor]:
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, torch.Tensor):
        yield value


def _partner(name: str, width: int) -> Callable:
    """What stands in for an argument where features are computed as the numbers were."""

    def beside(value):
        if isinstance(value, WeighedTokens):
            return value.features
        if isinstance(value, torch.Tensor) and name in _JOINS:
            if value.ndim and value.shape[-1] == width:
                return value.new_zeros(*value.shape[:-1], token_features.FEATURES)
            return value if name == "lerp" else torch.zeros_like(value)
        if isinstance(value, torch.Tensor) and name in _SCALES and value.ndim and value.shape[-1] != 1:
            raise ValueError(_lost(name))
        return value

    return beside


def _together(numbers, features, width: int, name: str):
    if isinstance(numbers, (list, tuple)):
        return type(numbers)(_together(*pair, width, name) for pair in zip(numbers, features))
    fits = numbers.ndim and numbers.shape[-1] == width and features.shape[-1] == token_features.FEATURES
    if not fits or numbers.shape[:-1] != features.shape[:-1]:
        raise ValueError(_lost(name))
    return WeighedTokens(numbers, features)


def _equal(one, other) -> bool:
    if not torch.equal(plain(one), plain(other)):
        return False
    beside = [v.features if isinstance(v, WeighedTokens) else None for v in (one, other)]
    known = next(features for features in beside if features is not None)
    return all(torch.equal(torch.zeros_like(known) if features is None else features, known) for features in beside)


def _lost(name: str) -> str:
    return (
        f"This conditioning carries weights or parts of the schedule, which '{name}' would lose. Draw with the MODEL that "
        f"Layerwise Attention Pool hands out, and take out what changes the conditioning behind it."
    )
