"""The table of the peers: this pack's line, a stand-in's, and what is said where a folder is missing."""

import sys

import pytest

PEER = """
class Ignores:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"clip": ("CLIP",), "text": ("STRING", {}), "strength": ("FLOAT", {"default": 1.0})}}

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "run"
    CATEGORY = "x"

    def run(self, clip, text, strength):
        import re

        return (clip.encode_from_tokens_scheduled(clip.tokenize(re.sub(r"[(](.*?):.*?[)]", r"\\\\1", text))),)


NODE_CLASS_MAPPINGS = {"IgnoresWeights": Ignores}
"""


def test_lines_of_this_pack_of_a_peer_and_of_missing_ones(pack, tmp_path, monkeypatch, capsys):
    from bench import peers

    folder = tmp_path / "peer"
    folder.mkdir()
    (folder / "__init__.py").write_text(PEER.replace("\\\\", "\\"))
    named = [f"{folder}:IgnoresWeights", f"{tmp_path / 'none'}:X", f"{folder}:NoSuchNode"]
    monkeypatch.setattr(sys, "argv", ["peers", "--runs", "1", *(part for name in named for part in ("--peer", name))])
    peers.main()
    lines = {line.split("|")[1].strip(): line.split("|")[2:] for line in capsys.readouterr().out.splitlines()[2:]}
    assert "skipped: There is no folder" in lines["X"][0] and "has no node 'NoSuchNode'" in lines["NoSuchNode"][0]
    twice, removed, _, neutral, leak, _, slider = (float(cell) for cell in lines["this pack"][:7])
    assert twice < 1e-3 and removed < 1e-3 and neutral == 0 and leak == 0 and slider == 0
    twice, removed, _, neutral, leak, _, slider = (float(cell) for cell in lines["IgnoresWeights"][:7])
    assert twice > 0.1 and removed == pytest.approx(1, abs=1e-3) and neutral == 0 and slider >= 1
