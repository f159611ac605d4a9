"""Epochs over the partitions of a dataset, checkpoints, and the model they leave."""
