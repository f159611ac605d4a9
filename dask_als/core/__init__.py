"""What everything else is made of: sides, factors, blocks, files."""
