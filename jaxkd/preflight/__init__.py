"""Memory, operations and collectives of a training step on any chips, known by compiling it without them."""
