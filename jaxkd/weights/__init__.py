"""Weights from files, matched strictly by leaf name."""
