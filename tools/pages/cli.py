"""The reference of commands in docs/operate/cli.md, from the signatures that typer reads."""

from __future__ import annotations

from collections.abc import Iterator

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from cli.app import app
from tools.pages.marks import DOCS, Part, cell


def render() -> str:
    """Return a heading, the usage and a table of arguments for each command."""
    root = typer.main.get_command(app)
    return "\n".join(_sections(root, "kube-cache"))


def _sections(command: object, path: str) -> Iterator[str]:
    if isinstance(command, TyperGroup):
        for name, inner in command.commands.items():
            yield from _sections(inner, f"{path} {name}")
    elif isinstance(command, TyperCommand):
        yield from [f"### `{path}`", "", cell((command.help or "").partition("\n\n")[0]), ""]
        rows = [row for parameter in command.params if (row := _row(parameter))]
        if rows:
            yield from ["| argument | default | meaning |", "|---|---|---|", *rows, ""]


def _row(parameter: object) -> str:
    match parameter:
        case TyperArgument():
            name = parameter.metavar or str(parameter.name).upper()
            return f"| `{name if parameter.required else f'[{name}]'}` | - | {cell(parameter.help or '')} |"
        case TyperOption():
            name = ", ".join(f"`{each}`" for each in sorted(parameter.opts, key=len, reverse=True))
            default = (
                f"`{parameter.default}`"
                if parameter.show_default and parameter.default not in {None, "", False}
                else "-"
            )
            return f"| {name} | {default} | {cell(parameter.help or '')} |"
    return ""


PART = Part(DOCS / "operate" / "cli.md", "commands", render)
