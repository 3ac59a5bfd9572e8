"""Layouts of annotated folders: each module finds the evidence of one, and says which sources read it."""
