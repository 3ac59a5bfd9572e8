"""Settings derived from data: numbers that follow of annotations, each with its reason in words."""
