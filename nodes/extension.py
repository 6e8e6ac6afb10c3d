from comfy_api.latest import ComfyExtension, io

from .dit_sampler import DiTSampler
from .guider import Guider
from .inspect import Inspect
from .layerwise_attention_pool import LayerwiseAttentionPool
from .load_conditioning import LoadConditioning
from .multi_reference_combine import MultiReferenceCombine
from .reference import Reference
from .save_conditioning import SaveConditioning
from .verifi_rewrite import VerifiRewrite
from .vlm_encode import VLMEncode

NODES: list[type[io.ComfyNode]] = [
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
]


class UniFusionExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> UniFusionExtension:
    return UniFusionExtension()
