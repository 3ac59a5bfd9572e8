"""The version of this jaxkd."""

VERSION = "0.1.0"
