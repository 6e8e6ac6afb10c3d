from comfy_api.latest import io, ui

from ..unifusion import picture_grid
from ..unifusion.references import check_picture
from .checked import Node
from .sockets import CATEGORY


class LabelledSheet(Node):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="UniFusionLabelledSheet",
            display_name="Labelled Sheet",
            category=CATEGORY,
            description="Several pictures as one sheet, with a line of text below each. Compare makes its sheet with it.",
            search_aliases=["UniFusion", "grid", "contact sheet", "collage", "XY plot", "image grid"],
            inputs=[
                io.Autogrow.Input(
                    "images",
                    template=io.Autogrow.TemplatePrefix(
                        io.Image.Input("image", tooltip="A picture; of a batch, every one."),
                        prefix="image",
                        min=1,
                        max=picture_grid.MOST_SOCKETS,
                    ),
                    tooltip="Pictures of any size.",
                ),
                io.String.Input(
                    "labels",
                    multiline=True,
                    default="",
                    tooltip="One line for each picture; of a batch, the line of its socket, numbered.",
                ),
                io.String.Input("title", default="", tooltip="A line above all. Empty for none."),
                io.Int.Input(
                    "columns", default=0, min=0, max=16, tooltip="Pictures in a row. 0 = by how many there are."
                ),
                io.String.Input(
                    "note", default="", optional=True, multiline=True, tooltip="Shown on the node, below the sheet."
                ),
            ],
            outputs=[io.Image.Output("sheet", display_name="sheet")],
        )

    @classmethod
    def execute(cls, images, labels="", title="", columns=0, note="") -> io.NodeOutput:
        batches = [(name, batch) for name, batch in images.items() if batch is not None]
        lines = [line.strip() for line in labels.splitlines()]
        lines += [""] * (len(batches) - len(lines))
        pictures, texts = [], []
        for (name, batch), line in zip(batches, lines):
            for index in range(len(batch)):
                pictures.append(check_picture(batch[index : index + 1], name).clamp(0, 1))
                texts.append(f"{line} ({index + 1})".strip() if len(batch) > 1 else line)
        sheet = picture_grid.draw(pictures, texts, title, columns)
        shown = ui.PreviewImage(sheet, cls=cls).as_dict() | (ui.PreviewText(note).as_dict() if note else {})
        return io.NodeOutput(sheet, ui=shown)
