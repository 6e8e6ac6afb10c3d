"""UniFusion: one frozen vision-language model conditions a diffusion transformer (arXiv 2510.12789).

Plain PyTorch. Only :mod:`unifusion.comfy_bridge` imports ComfyUI.
"""

__version__ = "0.2.0"
