"""What the commands in ``tools``, the host tests and the benches share: a server, a browser, graphs, a random Krea 2."""
