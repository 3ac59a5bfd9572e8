"""The version of this jaxkd, and the name that it is installed by."""

VERSION = "0.1.0"
DISTRIBUTION = "jaxkd-detection"  # `jaxkd` is another project's on the package index


def install_line(extra: str) -> str:
    """The command that installs what an extra of pyproject.toml brings, as the end of a sentence has it."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"
