"""Flags of the commands: absl's, on a set of their own, with faults as one sentence."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from absl import flags
from ml_collections import ConfigDict, config_flags

from jaxkd import config as configs
from jaxkd.errors import ConfigError
from jaxkd.paths import expanded

NAME_ONE = "name a recipe: --config=FILE[:ARG], a .py file or the name of a shipped one"
RECIPE = (
    "  --config: FILE[:ARG], a recipe: a .py file or the name of a shipped one, and its argument.\n"
    "  --config.FIELD: A value for any field of the recipe, such as --config.train.steps=2000.\n"
)


def parse(
    command: str,
    argv: Sequence[str],
    define: Callable[[flags.FlagValues], None],
    *,
    positional: str = "",
    with_recipe: bool = False,
) -> tuple[flags.FlagValues, list[str]]:
    """The flags that `define` defines, and the arguments beside them.

    `positional` names these, which are paths, in the help; a command without them refuses any. With `with_recipe` the
    help names what `recipe` takes out beforehand. Raises ConfigError in one sentence.
    """
    values = flags.FlagValues()
    flags.DEFINE_bool("help", False, "Show this.", flag_values=values, short_name="h")
    define(values)
    try:
        rest = values([command, *argv])[1:]
    except flags.UnrecognizedFlagError as error:
        near = configs.closest(error.flagname, set(values))
        raise ConfigError(f"jaxkd {command} has no flag --{error.flagname}{near}.") from error
    except (flags.Error, KeyError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(_sentence(error)) from error
    if values.help:
        print(f"usage: jaxkd {command} [flags]{positional and f' {positional}'}")
        print(f"{RECIPE if with_recipe else ''}{_listed(values)}")
        raise SystemExit(0)
    if rest and not positional:
        raise ConfigError(f"'{rest[0]}' is not a flag; jaxkd {command} takes flags only, such as --workdir=DIR.")
    return values, [expanded(argument) for argument in rest]


class _PathParser(flags.ArgumentParser):
    """Takes ~ for the home folder, as a shell does not behind a flag's =."""

    def parse(self, argument: str) -> str:
        return expanded(argument)


def define_path(name: str, default: str, help: str, *, values: flags.FlagValues) -> None:
    """A flag that holds a path."""
    flags.DEFINE(_PathParser(), name, default, help, flag_values=values, serializer=flags.ArgumentSerializer())


@dataclass(frozen=True)
class Choice:
    """What --config and --config.x.y=v of a command line ask for."""

    named: str  # FILE[:ARG]; empty where no recipe is named
    overrides: tuple[str, ...]  # --config.x.y=v

    def recipe(self, of_run: configs.Recipe | None = None) -> configs.Recipe | None:
        """The recipe that is named, or else that of a run, with the overrides put in; None where there is neither.

        A recipe from elsewhere than the current folder and its folders is announced on stderr before it is executed.
        Its paths are absolute. Raises ConfigError for an unknown or remote recipe, an unknown field or a value of
        another type, and for overrides of nothing.
        """
        found = _loaded(self.named) if self.named else of_run
        if found is None and self.overrides:
            raise ConfigError(f"{self.overrides[0].partition('=')[0]} is a field of a recipe; {NAME_ONE}.")
        if found is None:
            return None
        found = found.copy_and_resolve_references()
        for override in self.overrides:
            _override(found, override)
        return configs.with_absolute_paths(found)


def choice(argv: Sequence[str]) -> tuple[Choice, list[str]]:
    """What --config and --config.x.y=v ask for, and the other arguments."""
    named, overrides, rest = "", [], []
    arguments = iter(argv)
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        key = flag.lstrip("-")
        if flag.startswith("-") and (key == "config" or key.startswith("config.")):
            value = value if equals else next(arguments, "")
            if key == "config":
                named = value
            else:
                overrides.append(f"--{key}={value}")
        else:
            rest.append(argument)
    return Choice(named, tuple(overrides)), rest


def recipe(argv: Sequence[str]) -> tuple[configs.Recipe, list[str]]:
    """The recipe that --config names, with every --config.x.y=v put in, and the other arguments.

    Raises ConfigError as `Choice.recipe` does, and where none is named.
    """
    chosen, rest = choice(argv)
    if not chosen.named:
        raise ConfigError(f"{NAME_ONE[0].upper()}{NAME_ONE[1:]}.")
    found = chosen.recipe()
    assert found is not None
    return found, rest


def _loaded(named: str) -> configs.Recipe:
    path, colon, argument = expanded(named).partition(":")
    file = configs.locate(named if argument.startswith("//") else path)
    if configs.is_foreign(file):
        print(
            f"Notice: the recipe {file} is not below the current folder; it is a program and executes code.",
            file=sys.stderr,
        )
    return configs.load_recipe(file, argument if colon else None)


def _override(config: configs.Recipe, argument: str) -> None:
    """Puts --config.x.y=v into the recipe."""
    key, _, value = argument.removeprefix("--").partition("=")
    *folders, last = key.split(".")[1:]
    place = config
    for folder in [*folders, last]:
        if not isinstance(place, ConfigDict) or folder not in place:
            names = set(place.keys()) if isinstance(place, ConfigDict) else set()
            raise ConfigError(f"There is no {key} to override{configs.closest(folder, names)}.")
        previous, place = place, place[folder]
    if isinstance(place, ConfigDict):
        raise ConfigError(f"{key} is a component; override one of its fields: {', '.join(sorted(place.keys()))}.")
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=["jaxkd", argument])
        values(["jaxkd", argument])
    except (flags.Error, KeyError, AttributeError, TypeError, ValueError, SyntaxError) as error:
        wanted = previous.get_type(last).__name__
        raise ConfigError(f"{key} wants a value of type {wanted}, got '{value}'.") from error


def _sentence(error: Exception) -> str:
    text = str(error.args[0] if error.args else error).strip().replace("\n", " ")
    return text if text.endswith((".", "?", "!")) else f"{text}."


def _listed(values: flags.FlagValues) -> str:
    names = sorted(name for name in values if len(name) > 1)  # short names stand for others of the list
    return "\n".join(f"  --{name}: {values[name].help} (default {values[name].default!r})" for name in names)
