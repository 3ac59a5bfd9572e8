"""What a training step needs of chips that are not here: its memory, operations and collectives, by compiling it."""
