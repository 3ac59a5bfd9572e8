"""Distillation methods, one a file, behind the protocol in base."""
