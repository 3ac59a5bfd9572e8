"""Flags of the commands: absl flags without absl's global set, with errors in one sentence."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

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
    """The values of the flags that `define` defines, and the positional arguments.

    `positional` names these, which are paths, in the help; a command without them refuses any. With `with_recipe` the
    help lists --config too, which `recipe` removes beforehand. Raises ConfigError in one sentence.
    """
    values = flags.FlagValues()
    flags.DEFINE_bool("help", False, "Show this.", flag_values=values, short_name="h")
    define(values)
    if not {"-h", "--help"}.isdisjoint(argv):  # whatever else stands in the line
        print(f"usage: jaxkd {command} [flags]{positional and f' {positional}'}")
        print(f"{RECIPE if with_recipe else ''}{_help_of(values)}")
        raise SystemExit(0)
    try:
        rest = values([command, *(_as_absl_has_it(argument, values) for argument in argv)])[1:]
    except flags.UnrecognizedFlagError as error:
        near = configs.closest(error.flagname, set(values))
        raise ConfigError(f"jaxkd {command} has no flag --{error.flagname}{near}.") from error
    except (flags.Error, KeyError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(_sentence(error)) from error
    if rest and not positional:
        raise ConfigError(f"'{rest[0]}' is not a flag; jaxkd {command} takes flags only, such as --workdir=DIR.")
    return values, [expanded(argument) for argument in rest]


def _as_absl_has_it(argument: str, values: flags.FlagValues) -> str:
    """The argument that switches a flag off, written with a dash behind its "no", without it; others as they are."""
    dashes, no, name = argument.partition("no-")
    switches = no and dashes in ("-", "--") and name in values and values[name].boolean
    return f"{dashes}no{name}" if switches else argument


class _PathParser(flags.ArgumentParser):
    """Replaces ~ by the home folder, which a shell does not do behind a flag's =."""

    def parse(self, argument: str) -> str:
        return expanded(argument)


def define_path(name: str, default: str, help: str, *, values: flags.FlagValues) -> None:
    """Defines a flag that holds a path."""
    flags.DEFINE(_PathParser(), name, default, help, flag_values=values, serializer=flags.ArgumentSerializer())


def define_paths(name: str, help: str, *, values: flags.FlagValues) -> None:
    """Defines a flag that may be given several times, with a path each; they are a list."""
    flags.DEFINE_multi(_PathParser(), flags.ArgumentSerializer(), name, [], help, flag_values=values)


@dataclass(frozen=True)
class Choice:
    """The --config and --config.x.y=v of a command line."""

    name: str  # FILE[:ARG]; empty where no recipe is named
    overrides: tuple[str, ...]  # --config.x.y=v

    def recipe(self, of_run: configs.Recipe | None = None) -> configs.Recipe | None:
        """The named recipe, or else that of a run, with the overrides applied; None where there is neither.

        A recipe from outside the current folder is announced on stderr before it is executed. Its paths are absolute.
        Raises ConfigError for an unknown or remote recipe, an unknown field or a value of
        another type, and for overrides of nothing.
        """
        config = _load(self.name) if self.name else of_run
        if config is None and self.overrides:
            raise ConfigError(f"{self.overrides[0].partition('=')[0]} is a field of a recipe; {NAME_ONE}.")
        if config is None:
            return None
        config = config.copy_and_resolve_references()
        for override in self.overrides:
            _override(config, override)
        return configs.with_absolute_paths(config)


def choice(argv: Sequence[str]) -> tuple[Choice, list[str]]:
    """The --config and --config.x.y=v of the arguments, and the other arguments."""
    name, overrides, rest = "", [], []
    arguments = iter(argv)
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        key = flag.lstrip("-")
        if flag.startswith("-") and (key == "config" or key.startswith("config.")):
            value = value if equals else next(arguments, "")
            if key == "config":
                name = value
            else:
                overrides.append(f"--{key}={value}")
        else:
            rest.append(argument)
    return Choice(name, tuple(overrides)), rest


def recipe(argv: Sequence[str]) -> tuple[configs.Recipe, list[str]]:
    """The recipe that --config names, with every --config.x.y=v applied, and the other arguments.

    Raises ConfigError as `Choice.recipe` does, and where no recipe is named.
    """
    choices, rest = choice(argv)
    if not choices.name:
        raise ConfigError(f"{NAME_ONE[0].upper()}{NAME_ONE[1:]}.")
    config = choices.recipe()
    assert config is not None
    return config, rest


def _load(name: str) -> configs.Recipe:
    file, argument = configs.named(name)
    announce(file)
    return configs.load_recipe(file, argument)


def announce(file: Path) -> None:
    """Says on stderr that a recipe from outside the current folder is going to be executed."""
    if configs.is_foreign(file):
        print(
            f"Notice: the recipe {file} is not below the current folder; it is a program and executes code.",
            file=sys.stderr,
        )


def _override(config: configs.Recipe, argument: str) -> None:
    """Applies --config.x.y=v to the recipe."""
    key, _, value = argument.removeprefix("--").partition("=")
    *components, field = key.split(".")[1:]
    node = config
    for name in [*components, field]:
        if not isinstance(node, ConfigDict) or name not in node:
            names = set(node.keys()) if isinstance(node, ConfigDict) else set()
            raise ConfigError(f"There is no {key} to override{configs.closest(name, names)}.")
        parent, node = node, node[name]
    if isinstance(node, ConfigDict):
        raise ConfigError(f"{key} has fields of its own; override one of them: {', '.join(sorted(node.keys()))}.")
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=["jaxkd", argument])
        values(["jaxkd", argument])
    except (flags.Error, KeyError, AttributeError, TypeError, ValueError, SyntaxError) as error:
        wanted = parent.get_type(field).__name__
        raise ConfigError(f"{key} wants a value of type {wanted}, got '{value}'.") from error


def _sentence(error: Exception) -> str:
    text = str(error.args[0] if error.args else error).strip().replace("\n", " ")
    return text if text.endswith((".", "?", "!")) else f"{text}."


def _help_of(values: flags.FlagValues) -> str:
    names = sorted(name for name in values if len(name) > 1)  # short names stand for others of the list
    return "\n".join(f"  --{name}: {values[name].help} (default {values[name].default!r})" for name in names)
