"""Linen blocks: backbones, necks and heads."""
