"""Loading: detectors from a recipe, a folder or a published file, and the data and the teacher of a recipe."""
