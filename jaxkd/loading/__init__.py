"""Detectors built from a recipe, a folder or a published file, and the data and the teacher that a recipe names."""
