"""Transformations around transformations: masking, partitioning, accumulating, averaging, guarding."""
