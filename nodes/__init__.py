"""What a creator sees: one file a node."""
