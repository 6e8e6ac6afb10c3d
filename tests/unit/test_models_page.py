"""The page of models says what the table says."""

import importlib.util
from pathlib import Path

from unifusion.profiles import PROFILES

PACK = Path(__file__).resolve().parents[2]


def test_the_page_of_models_is_what_the_rows_say():
    spec = importlib.util.spec_from_file_location("build_models_doc", PACK / "tools" / "build_models_doc.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    written = tool.PAGE.read_text(encoding="utf-8")
    assert written == tool.page(), "run: python tools/build_models_doc.py"
    for row in PROFILES.values():
        assert written.count(f"| {row.title} | `{row.key}` |") == 1
