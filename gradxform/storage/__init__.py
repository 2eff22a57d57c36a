"""How numbers are kept: slots in few bytes, and parameters in low precision without losing updates."""
