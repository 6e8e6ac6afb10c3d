"""The base of every node: what arrives on a socket or in a text is what the node's own code may take for granted.

Other nodes hand on None (a checkpoint without a text encoder), wrong types and NaN; JSON can carry half an emoji. Each
ends here, in one sentence, before a node's own code runs.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from comfy_api.latest import io

from ..unifusion.quoting import printable, quoted


def _is_conditioning(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) > 0
        and all(
            isinstance(entry, (list, tuple))
            and len(entry) == 2
            and isinstance(entry[0], torch.Tensor)
            and isinstance(entry[1], dict)
            for entry in value
        )
    )


def _is_hidden(value: Any) -> bool:
    # Not isinstance: the library may be imported under two names.
    return isinstance(value, tuple) and hasattr(value, "states") and hasattr(value, "roles")


def _is_references(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(hasattr(reference, "picture") for reference in value)


def _is_pictures(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim == 4 and value.shape[-1] in (1, 3, 4) and 0 not in value.shape


def _is_latent(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("samples"), torch.Tensor)


# Socket type -> (whether a value is one, what it is called, what to do when nothing came).
SOCKETS: dict[str, tuple[Callable[[Any], bool], str, str]] = {
    "MODEL": (
        lambda value: hasattr(value, "model") and hasattr(value, "clone"),
        "a MODEL",
        "Connect a Load Diffusion Model or Load UniFusion Model node; a file that holds no diffusion model gives none.",
    ),
    "CLIP": (
        lambda value: hasattr(value, "cond_stage_model") and hasattr(value, "tokenizer"),
        "a CLIP",
        "Connect a Load CLIP or Load UniFusion Model node; a checkpoint without a text encoder gives none.",
    ),
    "CONDITIONING": (_is_conditioning, "CONDITIONING with at least one entry", "Connect Layerwise Attention Pool."),
    "UNIFUSION_HIDDEN_STATES": (_is_hidden, "hidden states", "Connect VLM Encode or VERIFI Rewrite."),
    "UNIFUSION_REFERENCES": (_is_references, "references", "Connect Reference or Multi-Reference Combine."),
    "IMAGE": (_is_pictures, "pictures of (batch, height, width, channels)", "Connect a Load Image node."),
    "MASK": (lambda value: isinstance(value, torch.Tensor), "a MASK", "Connect a mask, such as Load Image's."),
    "LATENT": (_is_latent, "a LATENT", "Connect an Empty Latent Image or VAE Encode node."),
}


def _finite(value: Any) -> bool:
    """Whether every number of the tensors in a value is one."""
    if isinstance(value, torch.Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    if isinstance(value, dict):
        return all(_finite(value.get(name)) for name in ("samples", "noise_mask"))
    if isinstance(value, (list, tuple)) and not _is_hidden(value):
        return all(_finite(entry[0]) for entry in value if isinstance(entry, (list, tuple)) and entry)
    return True


def _found(value: Any) -> str:
    if value is None:
        return "nothing (None)"
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, (str, int, float, bool)):
        return quoted(value)
    return f"an empty {type(value).__name__}" if hasattr(value, "__len__") and not len(value) else type(value).__name__


def check_socket(node: str, name: str, kind: str, value: Any) -> None:
    """Refuse what is not of a socket's type.

    Args:
        node: the node's name in the sentence.
        name: the input.
        kind: ComfyUI's type, or several separated by commas.
        value: what arrived.

    Raises:
        ValueError: naming the input, what was found and what to connect.
    """
    known = [SOCKETS[part] for part in kind.split(",") if part in SOCKETS]
    if not known:
        return
    if not any(is_one(value) for is_one, _, _ in known):
        wanted = " or ".join(title for _, title, _ in known)
        raise ValueError(f"{node}: '{name}' needs {wanted}, but got {_found(value)}. {known[0][2]}")
    if not _finite(value):
        raise ValueError(
            f"{node}: '{name}' holds NaN or infinite values, which would turn the picture black. Look at the node it "
            f"comes from."
        )


def clean(value: Any) -> Any:
    """Texts without halves of characters, in whatever list or dictionary they stand; all else as it is."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if type(value) is dict:
        return {clean(key): clean(part) for key, part in value.items()}
    if type(value) is list and any(isinstance(part, str) for part in value):
        return [clean(part) for part in value]
    return value


def computed(value: Any) -> Any:
    """What was put off until a node takes it (see ``actions/later.py``), in growing inputs too; all else as it is."""
    if getattr(type(value), "unifusion_later", False):
        return value.value()
    if type(value) is dict:
        return {name: computed(part) for name, part in value.items()}
    return value


def _sockets(schema: io.Schema, given: dict) -> Iterator[tuple[str, str, Any, bool]]:
    """(name, type, value, optional) of every connected or required socket, those of growing inputs included."""
    for wanted in schema.inputs:
        value, optional = given.get(wanted.id), bool(getattr(wanted, "optional", False))
        if getattr(wanted, "rawLink", None):
            continue  # the link itself arrives, nothing has been computed
        if isinstance(wanted, io.Autogrow.Input):
            kind = wanted.template.input.get_io_type()
            for name, part in (value or {}).items():
                yield name, kind, part, True
        else:
            yield wanted.id, wanted.get_io_type(), value, optional


def check(schema: io.Schema, given: dict) -> None:
    """Raises ValueError for a missing choice or for what is not of its socket's type."""
    for wanted in schema.inputs:
        if isinstance(wanted, io.DynamicCombo.Input) and not isinstance(given.get(wanted.id), dict):
            options = ", ".join(option.key for option in wanted.options)
            raise ValueError(
                f"{schema.display_name}: '{wanted.id}' holds no known option (an option of another version, perhaps). "
                f"Choose one of: {options}."
            )
    for name, kind, value, optional in _sockets(schema, given):
        if not (optional and value is None):
            check_socket(schema.display_name, name, kind, value)


class Node(io.ComfyNode):
    """A node whose ``execute`` gets what its schema promises, and whose errors can be printed."""

    def __init_subclass__(cls, **kwargs) -> None:
        super().__init_subclass__(**kwargs)
        own = cls.__dict__.get("execute")
        if own is not None and not hasattr(own.__func__, "__wrapped__"):  # ComfyUI clones and locks the class for a run
            cls.execute = classmethod(_checked(own.__func__))


def _checked(execute: Callable) -> Callable:
    signature = inspect.signature(execute)

    @functools.wraps(execute)
    def checked(cls, *args, **kwargs):
        given = clean(dict(zip(list(signature.parameters)[1:], args)) | kwargs)
        schema = getattr(cls, "SCHEMA", None) or cls.define_schema()
        if unknown := sorted(set(given) - set(signature.parameters)):
            raise ValueError(
                f"{schema.display_name}: there is no input {quoted(unknown[0])} in this version. Take the connection out; "
                f"growing inputs are counted from 0 and end where the node ends."
            )
        given = {name: computed(value) for name, value in given.items()}
        check(schema, given)
        try:
            return execute(cls, **given)
        except ValueError as error:
            text = str(error)
            if text.isprintable():
                raise
            raise ValueError(printable(text)) from None  # a chained text would be printed as well

    return checked
