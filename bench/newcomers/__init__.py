"""What newcomers type, by hand, with what must come of it: data and their reading."""
