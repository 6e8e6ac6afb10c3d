"""The paper's claims, measured on the miniature: ``python -m bench.reproduction``."""
