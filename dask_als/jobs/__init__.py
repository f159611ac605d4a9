"""Job files and their steps, on this machine or on Kubernetes."""
