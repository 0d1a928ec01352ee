"""The deterministic heart: history in, commands out. No I/O, no clock, no database."""
