import pytest


@pytest.fixture(scope="module", autouse=True)
def fresh_accelerate():
    """accelerate keeps one state for the process; modules train with different precisions."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
