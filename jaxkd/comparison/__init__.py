"""Compares detectors on one set of pictures, and writes the page of the comparison."""
