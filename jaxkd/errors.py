"""The errors that the command line reports as one sentence and an exit code."""


class JaxkdError(Exception):
    """An error that the user can act on; its text is one sentence: what was given, what was wanted, what to do."""

    exit_code = 70

    def __str__(self) -> str:
        """The text in one line; line breaks and other unprintable characters are escaped."""
        text = super().__str__()
        return "".join(
            character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
        )


class ConfigError(JaxkdError):
    """A recipe, flag or workdir that cannot be used (exit code 64)."""

    exit_code = 64


class DataError(JaxkdError):
    """An annotation file or picture that cannot be used (exit code 65)."""

    exit_code = 65


class WeightsError(JaxkdError):
    """Weights that are missing, broken or of another detector (exit code 66)."""

    exit_code = 66


class StorageError(JaxkdError):
    """A folder that cannot be read or written (exit code 74)."""

    exit_code = 74


class DivergedError(JaxkdError):
    """A run whose losses stay non-finite; a restart would not help (exit code 76)."""

    exit_code = 76


class StoppedError(JaxkdError):
    """A run that was asked to stop and has saved its state; the same command resumes it (exit code 75).

    With `compiling` a compilation is still running, and the process must exit without waiting for it.
    """

    exit_code = 75

    def __init__(self, text: str, *, compiling: bool = False):
        super().__init__(text)
        self.compiling = compiling


class HostLostError(JaxkdError):
    """A process of the run that never started or is lost; a restart of all processes helps (exit code 77)."""

    exit_code = 77


class TooLargeError(JaxkdError):
    """A step that needs more memory than a chip has (exit code 71)."""

    exit_code = 71


def first_line(error: BaseException) -> str:
    """The first line of an error's text, at most 300 characters without a full stop, or else the name of its class."""
    text = str(error).strip()
    return text.splitlines()[0][:300].rstrip(".: ") if text else type(error).__name__
