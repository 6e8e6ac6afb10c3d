"""The MODEL door: what a drawing model wants of conditioning, and what carries a weight into it."""
