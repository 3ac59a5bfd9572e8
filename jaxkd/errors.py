"""What the command line turns into one sentence and an exit code."""


class JaxkdError(Exception):
    """A fault that the user can act on; its text is one sentence: what was given, what was wanted, what to do."""

    exit_code = 70

    def __str__(self) -> str:
        """One line, whatever a file or a flag had in it: line breaks and the like as their escapes."""
        text = super().__str__()
        return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


class ConfigError(JaxkdError):
    """A recipe, flag or workdir that does not fit (exit code 64)."""

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
    """A run whose losses stay non-finite; starting it again would not help (exit code 76)."""

    exit_code = 76


class StoppedError(JaxkdError):
    """A run that was asked to stop and has saved what it did; the same command goes on (exit code 75).

    Where it is `compiling` still, the process must not wait for the end of that.
    """

    exit_code = 75

    def __init__(self, text: str, *, compiling: bool = False):
        super().__init__(text)
        self.compiling = compiling


class HostLostError(JaxkdError):
    """A process of the run that never came or is gone; starting all of them again helps (exit code 77)."""

    exit_code = 77


class TooLargeError(JaxkdError):
    """A step that needs more memory than a chip has (exit code 71)."""

    exit_code = 71


def first_line(error: Exception) -> str:
    """What an error says, as a phrase for one line; the name of its kind where it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
