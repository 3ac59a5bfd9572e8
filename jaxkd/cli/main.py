"""`jaxkd COMMAND ...`: runs a command, and turns errors into one sentence and an exit code."""

import importlib
import os
import sys
from collections.abc import Sequence

from jaxkd import __version__
from jaxkd.cli import output
from jaxkd.errors import JaxkdError, StoppedError, StorageError
from jaxkd.train import compile_cache

COMMANDS = {
    "quickstart": "distil on the embedded blood cells, and see what it gains",
    "distill": "distil on a folder of annotated pictures, and see what it gains",
    "inspect": "look at the data of a folder or recipe before training on it",
    "train": "train a detector, alone or taught",
    "evaluate": "score the student of a run",
    "predict": "find objects in pictures and draw them",
    "compare": "hold runs against each other, on one page",
    "export": "write a student as StableHLO, ONNX, TFLite or SavedModel",
    "convert": "take over a torchvision, detectron2 or mmdetection detector",
    "explain": "draw what the teacher teaches on one picture",
    "preflight": "see what a training step needs of a TPU or GPU, before there is one",
}
COMPILING = ("quickstart", "distill", "train", "evaluate", "predict", "compare", "export", "explain")
TRAINING = ("quickstart", "distill", "train")
ALIASES = {"distil": "distill"}  # other spellings
USAGE = 64


def program() -> int:
    """The console script `jaxkd`."""
    output.restart_in_utf8()
    output.protect_streams()
    return output.final_code(" ".join(sys.argv[1:2]), main())


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if arguments[0] == "--version":
        print(f"jaxkd {__version__}")
        return 0
    name, rest = ALIASES.get(arguments[0], arguments[0]), arguments[1:]
    if name not in COMMANDS:
        print(f"jaxkd: there is no command '{name}'; there are {', '.join(COMMANDS)}.", file=sys.stderr)
        return USAGE
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        if name in COMPILING:
            compile_cache.use()
        command = importlib.import_module(f"jaxkd.cli.{name}")
        return command.run(rest)
    except JaxkdError as error:
        print(f"jaxkd {name}: {error}", file=sys.stderr, flush=True)
        if isinstance(error, StoppedError) and error.compiling:
            os._exit(error.exit_code)  # a thread of the compiler would be torn down while it works
        return error.exit_code
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"jaxkd {name}: {where}{error.strerror or error}.", file=sys.stderr)
        return StorageError.exit_code
    except KeyboardInterrupt:
        resume = "; the same command goes on from the last checkpoint" if name in TRAINING else ""
        print(f"jaxkd {name}: stopped{resume}.", file=sys.stderr)
        return 130
    except MemoryError:
        advice = "; lower train.batch or the picture size" if name == "train" else ""
        print(f"jaxkd {name}: out of memory{advice}.", file=sys.stderr)
        return 70


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(["usage: jaxkd COMMAND [flags]     (jaxkd COMMAND --help lists the flags)", "", *lines])


if __name__ == "__main__":
    sys.exit(program())
