"""The repository root goes to the end of the path: its folder ``nodes`` must never come before the host's module."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
