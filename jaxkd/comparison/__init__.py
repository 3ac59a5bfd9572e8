"""Detectors held against each other on one set of pictures, and the page that shows it."""
