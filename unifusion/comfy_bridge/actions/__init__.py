"""What each node does."""
