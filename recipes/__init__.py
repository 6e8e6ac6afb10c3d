"""How bundled models are made; nothing that ships rests on it."""
