"""A trained model: its files, predictions, recommendations, fold-in."""
