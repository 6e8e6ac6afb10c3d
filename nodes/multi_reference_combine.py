from comfy_api.latest import io, ui

from ..unifusion import contact_sheet
from ..unifusion.references import DETAILS, LABEL_STYLES, combine, combined_lines, from_images
from .checked import Node
from .sockets import CATEGORY, ReferencesSocket


class MultiReferenceCombine(Node):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="UniFusionMultiReferenceCombine",
            display_name="Multi-Reference Combine",
            category=CATEGORY,
            description="Several pictures for one prompt: a shared token budget, labels, detail, and a sheet of what "
            "the vision-language model will see. A picture gets a strength in a Reference node.",
            search_aliases=[
                "UniFusion",
                "multiple references",
                "image prompt",
                "style and subject",
                "contact sheet",
                "token budget",
                "tiles",
            ],
            inputs=[
                io.Int.Input(
                    "budget",
                    default=0,
                    min=0,
                    max=16384,
                    tooltip="Tokens of the vision-language model shared by all pictures: one token covers "
                    "32 x 32 pixels, every view gets the same share. 0 = every view gets what the "
                    "encoder's profile wants (144 for Krea 2, 16 for the miniature).",
                ),
                io.Combo.Input(
                    "detail",
                    options=list(DETAILS),
                    default="one view",
                    tooltip="For pictures without a setting of their own. 'N tiles' gives up to N - 1 "
                    "patches and then the whole picture, as in the paper.",
                ),
                io.Combo.Input(
                    "labels",
                    options=list(LABEL_STYLES),
                    default=LABEL_STYLES[0],
                    tooltip="Words in front of each picture, which the prompt may use. A numbered style "
                    "names the pictures that have no label of their own. With an edit LoRA, use the "
                    "style it was trained with.",
                ),
                ReferencesSocket.Input(
                    "references",
                    optional=True,
                    tooltip="From Reference nodes, with labels and strengths. They come first.",
                ),
                io.Autogrow.Input(
                    "images",
                    optional=True,
                    template=io.Autogrow.TemplatePrefix(
                        io.Image.Input("image", tooltip="A picture at strength 1; every picture of a batch is one."),
                        prefix="image",
                        min=0,
                        max=10,
                    ),
                    tooltip="Pictures at strength 1.",
                ),
            ],
            outputs=[
                ReferencesSocket.Output("references", display_name="references"),
                io.Image.Output("contact_sheet", display_name="contact sheet"),
                io.String.Output("report", display_name="report"),
            ],
        )

    @classmethod
    def execute(cls, budget, detail, labels, references=None, images=None) -> io.NodeOutput:
        combined = combine([*(references or ()), *from_images(images or {})], budget, DETAILS[detail], labels)
        sheet, report = contact_sheet.draw(combined), "\n".join(combined_lines(combined, budget))
        shown = {**ui.PreviewImage(sheet, cls=cls).as_dict(), **ui.PreviewText(report).as_dict()}
        return io.NodeOutput(combined, sheet, report, ui=shown)
