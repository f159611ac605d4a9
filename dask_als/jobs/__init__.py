"""Job files and their steps, here or on Kubernetes."""
