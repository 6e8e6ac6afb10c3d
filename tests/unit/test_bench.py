"""The bench says how quiet the machine was, and compares commits; what it measures is run by hand."""

import json
from argparse import Namespace

import pytest

from bench import __main__ as main
from bench import against
from bench.measure import Neighbours, Spent, figure, interleaved, spent


def test_a_busy_machine_is_refused_or_said(monkeypatch):
    monkeypatch.setattr(main, "share_before", lambda: 0.4)
    with pytest.raises(SystemExit, match="40% of this machine, and at most 5%.*--anyway"):
        main.check_quiet(0.05, anyway=False)
    assert main.check_quiet(0.05, anyway=True) == 0.4
    about = {"others before": 0.4, "others during": {"encode": 0.1, "graph": None}}
    assert main.loads(about, 0.05).startswith("**Not a quiet machine.**")
    about = {"others before": 0.01, "others during": {"encode": 0.02, "graph": None}}
    assert main.loads(about, 0.05) == "Other processes took 1% of the machine before and at most 2% while it ran."


def test_a_quiet_machine_that_became_busy_is_said_too():
    about = {"others before": 0.0, "others during": {"encode": 0.3}}
    assert "Not a quiet machine" in main.loads(about, 0.05)


def test_a_figure_has_the_median_of_ratios_and_cpu_time_beside_it():
    pairs = [(Spent(1.0, 2.0), Spent(2.0, 2.0)), (Spent(3.0, 2.0), Spent(3.0, 4.0)), (Spent(9.0, 2.0), Spent(3.0, 1.0))]
    made = figure("a", "b", pairs)
    assert (made.ratio, made.low, made.high, made.cpu) == (1.0, 0.5, 3.0, 1.0)
    assert (made.ours, made.theirs, made.runs) == (3.0, 3.0, 3)
    assert figure("a", "b", [(2.0, 4.0)], "MB").cpu is None
    assert "| **1.00** (0.50-3.00) | 1.00 | 3 s | 3 s | 3 |" in main.table([made])


def test_calls_are_measured_in_turn():
    order = []
    found = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    assert order == list("ababab") and len(found["a"]) == 2
    assert spent(lambda: sum(range(10**6))).cpu > 0
    assert 0 <= Neighbours().share() <= 1


def test_a_row_is_slower_only_where_the_ranges_do_not_meet():
    row = ("encode", "s", 2)
    text, slower = against.table([{row: 1.0}, {row: 1.1}], [{row: 1.05}, {row: 0.9}], "abc")
    assert not slower and "slower" not in text
    text, slower = against.table([{row: 1.3}, {row: 1.2}], [{row: 1.0}, {row: 0.9}], "abc")
    assert slower and "| encode | **1.32** | 1.2-1.3 s | 0.9-1 s | slower |" in text
    text, slower = against.table([{row: 0.5}], [{row: 1.0}, {}], "abc")
    assert not slower and "faster" in text
    assert against.table([{row: 1.0}], [{}], "abc") == (
        "| what | here / abc | here | abc | |\n|---|---|---|---|---|\n",
        False,
    )


def test_what_is_written_can_be_read_and_looked_at(tmp_path):
    figures = [figure("encode", "stock", [(1.0, 2.0)]), figure("kept", "states", [(3.0, 2.0)], "MB")]
    about = {
        "commit": "abc",
        "machine": "a machine",
        "models": "small",
        "threads": 2,
        "seconds": 1,
        "others before": 0.0,
        "others during": {},
        "figures": [line.as_dict() for line in figures],
    }
    main.write(about, figures, [], Namespace(out=tmp_path, busy=0.05))
    assert json.loads((tmp_path / "bench.json").read_text())["figures"][0]["ratio"] == 0.5
    assert "Commit abc. a machine, 2 threads" in (tmp_path / "bench.md").read_text()
    assert (tmp_path / "bench.png").stat().st_size > 5000


def test_a_commit_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="There is no commit 'no-such-commit'"):
        against.compare(Namespace(against="no-such-commit", out=tmp_path, only="", quick=True))


def test_the_edit_loras_proof_goes_on_where_it_stopped(tmp_path):
    """Half-written pairs do not count as all of them; scored scenes are kept as long as the LoRA is the same."""
    pytest.importorskip("accelerate")
    pytest.importorskip("pydantic")
    from bench.edit_lora import Scores, write_pairs

    (tmp_path / "pairs.unfinished" / "target").mkdir(parents=True)
    write_pairs(tmp_path / "pairs", 2)
    assert (
        len(list((tmp_path / "pairs" / "control").glob("*.png"))) == 2 and not (tmp_path / "pairs.unfinished").exists()
    )
    lora = tmp_path / "lora.safetensors"
    lora.write_bytes(b"1")
    for made in (True, False, True):
        Scores(tmp_path, lora).add({"made": made})
    kept = Scores(tmp_path, lora)
    kept.path.write_text(kept.path.read_text() + '{"ma')
    again = Scores(tmp_path, lora)
    assert [row["made"] for row in again.rows] == [True, False, True] and again.total(2) == {"made": 1}
    lora.write_bytes(b"2")
    assert Scores(tmp_path, lora).rows == [] == Scores(tmp_path, None).rows
