from comfy_api.latest import io, ui

from ..unifusion.comfy_bridge.actions import look_inside
from .checked import Node
from .sockets import CATEGORY, HiddenStatesSocket, ReferencesSocket


class Inspect(Node):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="UniFusionInspect",
            display_name="UniFusion Inspect",
            category=CATEGORY,
            description="Shows what the pooling uses: the weight of every layer, the layers single words attend to, "
            "heat maps over the pictures, and the tokens of each role. Can silence layers to see what "
            "they do.",
            search_aliases=[
                "UniFusion",
                "LAP",
                "layers",
                "attention",
                "heat map",
                "layer dropout",
                "rebalance",
                "Krea 2",
            ],
            is_output_node=True,
            inputs=[
                HiddenStatesSocket.Input("hidden_states", tooltip="From VLM Encode or VERIFI Rewrite."),
                io.Model.Input("model", tooltip="The drawing model that the hidden states are for."),
                io.String.Input(
                    "words",
                    default="",
                    tooltip="Words to look at, separated by commas. Empty takes the first words of the text.",
                ),
                io.String.Input(
                    "heat_map",
                    default="",
                    tooltip="A layer's number or a word, shown over each picture. Empty takes the layer "
                    "that counts most.",
                ),
                io.String.Input(
                    "silence",
                    default="",
                    tooltip="Layers to silence, such as '4, 28'. The second output carries the states "
                    "without them, to draw and compare.",
                ),
                io.Combo.Input(
                    "view", options=list(look_inside.VIEWS), default=look_inside.ALL, tooltip="Which page to draw."
                ),
                ReferencesSocket.Input(
                    "references", optional=True, tooltip="The references that were encoded, to lay the heat maps over."
                ),
                io.Autogrow.Input(
                    "images",
                    optional=True,
                    template=io.Autogrow.TemplatePrefix(
                        io.Image.Input("image", tooltip="A picture that was encoded, to lay its heat map over."),
                        prefix="image",
                        min=0,
                        max=8,
                    ),
                    tooltip="The pictures that were encoded, in the same order, to lay the heat maps over.",
                ),
                io.Combo.Input(
                    "pages",
                    options=[look_inside.ONE_PAGE, look_inside.EVERY_PAGE],
                    default=look_inside.ONE_PAGE,
                    optional=True,
                    tooltip="For view 'all pages': one page that says the result in words, or every page.",
                ),
            ],
            outputs=[
                io.Image.Output("pages", display_name="pages"),
                HiddenStatesSocket.Output(
                    "silenced_states",
                    display_name="silenced states",
                    tooltip="The hidden states without the silenced layers.",
                ),
                io.String.Output("table", display_name="table"),
            ],
        )

    @classmethod
    def execute(
        cls,
        hidden_states,
        model,
        words="",
        heat_map="",
        silence="",
        view=look_inside.ALL,
        references=None,
        images=None,
        pages=look_inside.EVERY_PAGE,  # of graphs saved before there was a choice
    ) -> io.NodeOutput:
        drawn, table, silenced = look_inside.run(
            hidden_states,
            model,
            words=words,
            heat_map=heat_map,
            silence=silence,
            view=view,
            references=references,
            images=images,
            pages=pages,
        )
        shown = {**ui.PreviewImage(drawn, cls=cls).as_dict(), **ui.PreviewText(table).as_dict()}
        return io.NodeOutput(drawn, silenced, table, ui=shown)
