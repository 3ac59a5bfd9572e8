"""A reader of YAML that makes only text, lists and dicts of it."""

from typing import Any

import yaml

from jaxkd.errors import DataError


class _PlainLoader(yaml.BaseLoader):
    """Takes every value as the text that it is written as, so that a class `no` is no False, and refuses aliases."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias (*name)")
        return super().compose_node(parent, index)


def parse(text: str, *, where: str) -> Any:
    """The value that a text in YAML describes; `where` names its place, for messages.

    Raises:
      DataError: where it is no YAML, or has an alias.
    """
    try:
        return yaml.load(text, Loader=_PlainLoader)  # only text, lists and dicts are made
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or str(error) or type(error).__name__
        raise DataError(f"{where} is no YAML that is read here{line}: {reason}; write plain keys and lists.") from error
