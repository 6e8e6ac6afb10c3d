"""Presets of one's own, from the node that saves them to the lists and nodes that use them."""

import json

import pytest
import torch
from harness.krea2_graphs import node as api


@pytest.fixture
def here(bridge, tmp_path, monkeypatch):
    """An empty user folder."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path))
    return bridge("actions.presets").folder()


@pytest.fixture
def save(node):
    def act(name, kind, **fields):
        return node("UniFusionSavePreset").execute(name, {"kind": kind, **fields})[0]

    return act


@pytest.fixture(scope="module")
def miniature(pack):
    from unifusion_pack.unifusion.comfy_bridge.actions.model_folders import BUNDLED, load

    with torch.inference_mode():
        return load(BUNDLED)


def options(node, which, name):
    return next(one for one in node(which).define_schema().inputs if one.id == name).options


def test_presets_stand_beside_the_built_in_ones_of_their_kind(node, here, save):
    lists = {
        "layer gains": ("UniFusionLayerwiseAttentionPool", "gain_preset"),
        "system prompt": ("UniFusionVerifiRewrite", "system_prompt"),
        "picture job": ("UniFusionReference", "job"),
    }
    before = {kind: list(options(node, *where)) for kind, where in lists.items()}
    save("g", "layer gains", gains="2=1.5")
    save("s", "system prompt", text="Describe.")
    save("j", "picture job", mean_at="deep", tokens="subject")
    for kind, where in lists.items():
        own = {"layer gains": "own: g", "system prompt": "own: s", "picture job": "own: j"}[kind]
        assert list(options(node, *where)) == [*before[kind], own]
    assert sorted(path.name for path in here.iterdir()) == ["g.json", "j.json", "s.json"]
    assert here.parts[-3:] == ("default", "unifusion", "presets")


def test_an_own_preset_of_gains_is_the_custom_text(bridge, node, here, save, miniature):
    save("bold", "layer gains", gains="2=1.5, 3=0.5")
    hidden, negative, _ = bridge("actions.encode").run(miniature[1], "a red circle")
    pool = node("UniFusionLayerwiseAttentionPool")
    own = pool.execute(miniature[0], hidden, "own: bold", "", negative=negative)
    custom = pool.execute(miniature[0], hidden, "custom", "2=1.5, 3=0.5", negative=negative)
    off = pool.execute(miniature[0], hidden, "off", "", negative=negative)
    assert torch.equal(own[1][0][0], custom[1][0][0]) and not torch.equal(own[1][0][0], off[1][0][0])
    assert "x1.5" in own[4]
    assert pool.validate_inputs(gain_preset="own: bold", gains="") is True


def test_an_own_system_prompt_is_the_custom_text(bridge, node, here, save, miniature):
    save("terse", "system prompt", text="Describe the picture.")
    rewrite = node("UniFusionVerifiRewrite")

    def texts(choice, custom=""):
        rest = ("as the profile", {"sampling": "greedy"}, 0, 0, 32, "", "")
        return rewrite.execute(miniature[1], "a red circle", "auto", choice, custom, *rest)

    own, custom = texts("own: terse"), texts("custom", "Describe the picture.")
    assert own[2] == custom[2] and torch.equal(own[0][0].states, custom[0][0].states)
    assert "custom_system_prompt is not used" not in own[3]
    assert rewrite.validate_inputs(prompt="x", system_prompt="own: terse", custom_system_prompt="") is True


def test_an_own_job_acts(bridge, node, here, save, miniature):
    save("ground", "picture job", mean_at="all", tokens="ground")
    image = torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(0))
    references = node("UniFusionReference").execute(image, "", 1.0, "default", job="own: ground")[0]
    hidden, _, report = bridge("actions.encode").run(miniature[1], "a circle", references=references)
    seen = hidden.states[0, hidden.roles == 16]
    assert (seen == seen[0]).all() and 0 < int((hidden.weights == 0).sum()) < 16
    assert "job 'own: ground' (experimental)" in report


def test_a_preset_that_is_gone_or_damaged_is_one_sentence(node, here, save, miniature):
    save("there", "layer gains", gains="1=2")
    with pytest.raises(ValueError, match="There is no preset 'gone'.*there are: 'there'") as error:
        node("UniFusionLayerwiseAttentionPool").validate_inputs(gain_preset="own: gone", gains="")
    assert "\n" not in str(error.value) and str(error.value).endswith(".")
    (here / "there.json").write_bytes(b"{")
    with pytest.raises(ValueError, match="'there.json' cannot be used: it is no JSON"):
        node("UniFusionLayerwiseAttentionPool").validate_inputs(gain_preset="own: there", gains="")
    with pytest.raises(ValueError, match="There is no preset"):
        node("UniFusionReference").execute(torch.rand(1, 64, 64, 3), "", 1.0, "default", job="own: gone")
    with pytest.raises(ValueError, match="name of a preset '../x'"):
        node("UniFusionReference").execute(torch.rand(1, 64, 64, 3), "", 1.0, "default", job="own: ../x")


def test_a_server_lists_what_was_saved_and_survives_foreign_files(server):
    graph = {"1": api("UniFusionSavePreset", name="soft", replace=True)}
    graph["1"]["inputs"] |= {"kind": "layer gains", "kind.gains": "2=1.2"}
    done = server.finished(server.submit(graph))
    assert server.errors(done) == []
    folder = server.base / "user" / "default" / "unifusion" / "presets"
    assert json.loads((folder / "soft.json").read_text())["gains"] == "2=1.2"
    (folder / "deep.json").write_bytes(b"[" * 60000)
    (folder / "soft too.json").write_bytes((folder / "soft.json").read_bytes())  # shared as a file
    info = server.get("/object_info/UniFusionLayerwiseAttentionPool")["UniFusionLayerwiseAttentionPool"]
    kind, about = info["input"]["required"]["gain_preset"]
    listed = about["options"] if kind == "COMBO" else kind
    assert listed[-2:] == ["own: soft", "own: soft too"]
    for path in folder.iterdir():
        path.unlink()
