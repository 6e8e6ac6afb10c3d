"""Sockets the host has no word for, and the inputs that nodes which read pictures share."""

from comfy_api.latest import io

HiddenStatesSocket = io.Custom("UNIFUSION_HIDDEN_STATES")
ReferencesSocket = io.Custom("UNIFUSION_REFERENCES")
CATEGORY = "UniFusion"
# A node that shows what it made is told it again when the whole graph comes from the cache; older hosts cannot do that.
SHOWS_AGAIN = {"has_intermediate_output": True} if "has_intermediate_output" in io.Schema.__dataclass_fields__ else {}


def picture_inputs() -> list[io.Input]:
    """References and plain images, last and optional."""
    return [
        ReferencesSocket.Input(
            "references", optional=True, tooltip="Pictures with labels and strengths from Multi-Reference Combine."
        ),
        io.Autogrow.Input(
            "images",
            optional=True,
            template=io.Autogrow.TemplatePrefix(
                io.Image.Input("image", tooltip="A picture to read, at strength 1."), prefix="image", min=0, max=8
            ),
            tooltip="Pictures to read, each at strength 1.",
        ),
    ]
