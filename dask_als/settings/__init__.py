"""Settings: frozen dataclasses that check their values."""
