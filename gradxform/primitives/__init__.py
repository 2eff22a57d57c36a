"""Rules that optimizers are made of."""
