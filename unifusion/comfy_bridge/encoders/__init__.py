"""The VLM door: a ``CLIP`` as a stack of layers that reads a chat whose roles are known, and writes."""
