"""The miniature world: drawn scenes, their words, a scorer, and the models trained on them."""
