"""What clients keep from one image to the next: stacks of layers, compared, replayed, explained and drawn."""
