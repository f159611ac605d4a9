"""Search for settings by cross-validation."""
