"""What `Client` and `Handle` are made of, a module per topic."""
