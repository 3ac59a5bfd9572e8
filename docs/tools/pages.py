"""MkDocs hooks: formulas become MathML while the pages are built, and marks on pages become what the code says."""

import ast
import re
from pathlib import Path

from latex2mathml import converter

ROOT = Path(__file__).parents[2]
MODULES = re.compile(r"^<!-- modules: ([\w. -]+) -->$", re.MULTILINE)
TABLE = re.compile(r"^<!-- table ([\w./]+): (\|.+\|) -->$", re.MULTILINE)
RECIPES = re.compile(r"^<!-- recipes -->$", re.MULTILINE)
BLOCK = re.compile(r"^```math\n(.*?)\n```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"\$`([^`\n]+)`\$")


def on_page_markdown(markdown, *, page, config, files):
    """Puts formulas, the reference, tables and run cards where a page has a mark for them."""
    markdown = BLOCK.sub(lambda found: formulas(found[1]), markdown)
    markdown = INLINE.sub(lambda found: f"<span>{formula(found[1], 'inline')}</span>", markdown)
    markdown = MODULES.sub(lambda found: reference(found[1]), markdown)
    markdown = TABLE.sub(lambda found: table((ROOT / found[1]).read_text(), begins=found[2]), markdown)
    return RECIPES.sub(lambda _: run_cards(ROOT / "configs"), markdown)


def reference(names):
    """What mkdocstrings reads for modules: "jaxkd.ops" for all of a package, "-jaxkd.ops.x" without that one."""
    words = names.split()
    without = {word[1:] for word in words if word.startswith("-")}
    modules = [module for word in words if not word.startswith("-") for module in modules_of(word)]
    return "\n\n".join(f"::: {module}" for module in modules if module not in without)


def modules_of(name):
    """A module, or those of a package: the protocol first, then by name."""
    place = ROOT / name.replace(".", "/")
    if not place.is_dir():
        return [name]
    found = sorted(file.stem for file in place.glob("*.py") if file.stem != "__init__")
    return [f"{name}.{stem}" for stem in sorted(found, key=lambda stem: stem != "base")]


def table(text, *, begins):
    """The one table of a Markdown text whose first line begins so; ValueError where there is none or another."""
    tables = [
        found[0] for found in re.finditer(r"^\|.*\n(?:\|.*\n?)*", text, re.MULTILINE) if found[0].startswith(begins)
    ]
    if len(tables) != 1:
        raise ValueError(f"{len(tables)} tables begin with {begins}.")
    return tables[0]


def run_cards(folder):
    """For each recipe a heading, its run card and its text."""
    parts = []
    for file in sorted(folder.glob("*.py")):
        text = file.read_text()
        first, fields = run_card(ast.get_docstring(ast.parse(text)))
        rows = [f"* **{name}**: {_words(name, words)}" for name, words in fields.items()]
        parts += [f"### {file.stem}", first, "\n".join(rows)]
        body = "\n".join(f"    {line}".rstrip() for line in text.rstrip().splitlines())
        parts.append(f'??? note "configs/{file.name}"\n\n    ```python\n{body}\n    ```')
    return "\n\n".join(parts)


def run_card(docstring):
    """The first sentence of a recipe, and the fields of its run card with their words in one line."""
    first, _, card = docstring.partition("\n\n")
    fields, name = {}, ""
    for line in card.splitlines()[1:]:
        found = re.match(r"^  (\w+) +(.*)$", line)
        if found:
            name = found[1]
            fields[name] = found[2]
        else:
            fields[name] += f" {line.strip()}"
    return " ".join(first.split()), fields


def _words(name, words):
    return f"`{words}`" if name == "command" else words


def formulas(text):
    """A block of formulas, which wide spaces part, side by side where there is room."""
    parts = [f"<div>{formula(part, 'block')}</div>" for part in text.split("\\qquad")]
    return f'<div class="formula">{"".join(parts)}</div>'


def formula(text, display):
    """A formula in LaTeX as MathML, set apart ("block") or in a line ("inline")."""
    return converter.convert(" ".join(text.split()), display=display)
