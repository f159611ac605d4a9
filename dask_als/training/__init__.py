"""Training: the task graph of epochs, checkpoints, early stopping, writing the model."""
