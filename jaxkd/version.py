"""The version of jaxkd, and the name of its distribution."""

VERSION = "0.1.0"
DISTRIBUTION = "jaxkd-detection"  # `jaxkd` is another project's on the package index


def install_line(extra: str) -> str:
    """The command that installs an extra of pyproject.toml, for the end of a sentence."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"
