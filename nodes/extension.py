from comfy_api.latest import ComfyExtension, io

from ..unifusion.comfy_bridge.actions import model_folders, studio
from .compare import Compare
from .dit_sampler import DiTSampler
from .guider import Guider
from .inspect_states import Inspect
from .labelled_sheet import LabelledSheet
from .layerwise_attention_pool import LayerwiseAttentionPool
from .load_conditioning import LoadConditioning
from .load_model import LoadModel
from .multi_reference_combine import MultiReferenceCombine
from .reference import Reference
from .region import Region
from .sample_picture import SamplePicture
from .save_conditioning import SaveConditioning
from .save_preset import SavePreset
from .verifi_rewrite import VerifiRewrite
from .vlm_encode import VLMEncode

NODES: list[type[io.ComfyNode]] = [
    LoadModel,
    VLMEncode,
    Reference,
    MultiReferenceCombine,
    VerifiRewrite,
    LayerwiseAttentionPool,
    DiTSampler,
    Guider,
    Inspect,
    SaveConditioning,
    LoadConditioning,
    Region,
    SamplePicture,
    Compare,
    LabelledSheet,
    SavePreset,
]


class UniFusionExtension(ComfyExtension):
    async def on_load(self) -> None:
        model_folders.register()
        studio.register()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> UniFusionExtension:
    return UniFusionExtension()
