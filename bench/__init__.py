"""Figures beside what a creator would use instead: ``python -m bench``."""
