"""Hooks on a ``CLIP`` (Set CLIP Hooks): honoured where they change the encoder, refused where they would be lost."""

from __future__ import annotations


def check_hooks(clip) -> None:
    """Refuse hooks that hidden states cannot carry on.

    Hooks on the encoder itself act as in ComfyUI's own encoding.

    Raises:
        ValueError: if the hooks are scheduled, or are to act on the MODEL through the conditioning.
    """
    if getattr(clip.patcher, "forced_hooks", None) is None:
        return
    if getattr(clip, "use_clip_schedule", False):
        raise ValueError(
            "This CLIP carries scheduled hooks (Set CLIP Hooks with schedule_clip), but hidden states are of one encoding. "
            "Switch schedule_clip off there, or load the LoRA with a Load LoRA node."
        )
    if getattr(clip, "apply_hooks_to_conds", None) is not None:
        raise ValueError(
            "This CLIP carries hooks for the conditioning (Set CLIP Hooks with apply_to_conds), which would change the "
            "MODEL behind its pooling. Switch apply_to_conds off there and load the LoRA's model part with a Load LoRA "
            "node in front of Layerwise Attention Pool."
        )


def weights_key(clip) -> tuple:
    """The same while the encoder's weights are: what is kept of one LoRA or hook is not given out for another.

    The objects themselves stand in it where they have no name of their own, so that a later one at the same address is
    not taken for them.
    """
    hooks = getattr(clip.patcher, "forced_hooks", None)
    known = () if hooks is None else tuple((hook.hook_ref, hook.strength) for hook in hooks.hooks)
    replaced = tuple(sorted(clip.patcher.object_patches.items(), key=lambda item: item[0]))
    return clip.patcher.patches_uuid, known, tuple((name, _Same(part)) for name, part in replaced)


class _Same:
    """Equal to itself alone, whatever the object in it calls equal."""

    def __init__(self, part):
        self.part = part

    def __eq__(self, other):
        return isinstance(other, _Same) and self.part is other.part

    def __hash__(self):
        return id(self.part)
