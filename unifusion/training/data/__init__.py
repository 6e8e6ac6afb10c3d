"""Pictures and words to train on, in the layouts that people have."""
