"""Many devices and many hosts."""
