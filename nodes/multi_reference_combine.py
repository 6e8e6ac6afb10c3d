from comfy_api.latest import io, ui

from ..unifusion import contact_sheet
from ..unifusion.board import arrange, read_board
from ..unifusion.comfy_bridge.actions import presets
from ..unifusion.jobs import WHOLE
from ..unifusion.references import DETAILS, LABEL_STYLES, combine, combined_lines
from .checked import Node
from .sockets import CATEGORY, SHOWS_AGAIN, ReferencesSocket


class MultiReferenceCombine(Node):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="UniFusionMultiReferenceCombine",
            display_name="Multi-Reference Combine",
            category=CATEGORY,
            **SHOWS_AGAIN,
            description="Several pictures for one prompt, on a board: name, strength, on or off and order of each, a "
            "shared token budget, labels, detail, and a sheet of what the vision-language model will see.",
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
                    "drawing model was trained with (144 for Krea 2, 16 for the miniature).",
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
                        io.Image.Input("image", tooltip="A picture; every picture of a batch is one."),
                        prefix="image",
                        min=0,
                        max=10,
                    ),
                    tooltip="Pictures, each with a row on the board: name, strength, on or off, and the order.",
                ),
                io.String.Input(
                    "board",
                    default="",
                    optional=True,
                    socketless=True,
                    tooltip="The rows of the board: each picture's name, strength, whether it is read, and the order.",
                ),
                io.Combo.Input(
                    "job",
                    options=presets.jobs(),
                    default=WHOLE,
                    optional=True,
                    tooltip="What counts of pictures without a job of their own. 'read, not shown': the words are read with "
                    "them in sight, and they are left out of the drawing.",
                ),
            ],
            outputs=[
                ReferencesSocket.Output("references", display_name="references"),
                io.Image.Output("contact_sheet", display_name="contact sheet"),
                io.String.Output("report", display_name="report"),
            ],
        )

    @classmethod
    def execute(cls, budget, detail, labels, references=None, images=None, board="", job=WHOLE) -> io.NodeOutput:
        arranged, not_read = arrange(images or {}, read_board(board))
        combined = combine([*(references or ()), *arranged], budget, DETAILS[detail], labels, presets.job(job))
        sheet = contact_sheet.draw(combined)
        report = "\n".join([*combined_lines(combined, budget), *not_read])
        shown = {**ui.PreviewImage(sheet, cls=cls).as_dict(), **ui.PreviewText(report).as_dict()}
        return io.NodeOutput(combined, sheet, report, ui=shown)

    @classmethod
    def validate_inputs(cls, board=None, images=None):
        read_board(board or "")
        return True
