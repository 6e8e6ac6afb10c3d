"""Training on accelerate: flow matching of LAP, refiner and DiT against a frozen VLM."""
