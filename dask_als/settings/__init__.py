"""What users set: frozen dataclasses that check themselves."""
