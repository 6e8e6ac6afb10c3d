"""UniFusion for ComfyUI: what the host imports."""

WEB_DIRECTORY = "./web"

try:
    import comfy_api.latest  # noqa: F401  (only the host has it; test collectors import this file too)
except ModuleNotFoundError:
    pass
else:
    from .nodes.extension import comfy_entrypoint  # noqa: F401
