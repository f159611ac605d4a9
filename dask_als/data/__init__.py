"""From a source of ratings to a dataset of partitions."""
