"""UniFusion for ComfyUI: what the host imports."""

import logging
import re

WEB_DIRECTORY = "./web"
OLDEST = "0.26.0"  # the first with Krea 2 and Qwen3-VL as a text encoder


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)[:3]]


try:
    from comfyui_version import __version__ as _host  # only the host has it; test collectors import this file too
except ModuleNotFoundError:
    pass
else:
    if _numbers(_host) < _numbers(OLDEST):
        NODE_CLASS_MAPPINGS = {}  # loaded without nodes, so that the log says one sentence instead of a traceback
        logging.error(
            "UniFusion is not loaded: it needs ComfyUI %s or newer, which has Krea 2 and its text encoder; "
            "this is %s. Update ComfyUI.",
            OLDEST,
            _host,
        )
    else:
        from .nodes.extension import comfy_entrypoint  # noqa: F401
