"""Sockets the host has no word for."""

from comfy_api.latest import io

HiddenStatesSocket = io.Custom("UNIFUSION_HIDDEN_STATES")
ReferencesSocket = io.Custom("UNIFUSION_REFERENCES")
CATEGORY = "UniFusion"
