"""How a half-epoch solves the rows of a partition."""
