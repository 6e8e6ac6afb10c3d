from comfy_api.latest import ComfyExtension, io

from .dit_sampler import DiTSampler
from .guider import Guider
from .layerwise_attention_pool import LayerwiseAttentionPool
from .vlm_encode import VLMEncode

NODES: list[type[io.ComfyNode]] = [VLMEncode, LayerwiseAttentionPool, DiTSampler, Guider]


class UniFusionExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> UniFusionExtension:
    return UniFusionExtension()
