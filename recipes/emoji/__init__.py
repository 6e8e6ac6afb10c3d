"""Emoji as pictures with names, and a language model that nobody here trained: a real set for the trainer."""
