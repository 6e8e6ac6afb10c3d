"""The only door to the host: everything that imports ComfyUI lives here.

* ``encoders``: what the method asks of any ``CLIP``.
* ``drawers``: what a ``MODEL`` wants of conditioning.
* ``actions``: what each node does, through these two doors; its reports apart.
"""
