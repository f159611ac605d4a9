"""Read ratings from a source and write them as a partitioned dataset."""
