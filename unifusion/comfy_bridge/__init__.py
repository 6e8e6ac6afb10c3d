"""The only door to the host: everything that imports ComfyUI lives here."""
