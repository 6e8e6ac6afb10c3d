"""The paper's first claim on a language model that nobody here trained: pooling and its rivals on SmolLM2 and emoji."""
