"""Change values in TOML text and leave the rest as it was written: order, spacing, comments."""

import json
import re
import tomllib
from collections.abc import Mapping
from typing import Any

HEADER = re.compile(r"^\s*\[\[?\s*([^\[\]]+?)\s*\]\]?\s*(#.*)?$")


def with_values(text: str, values: Mapping[str, Any]) -> str:
    """`text` with "section.key" set to each value: in place, below the section's header, or at the end.

    It knows sections written as [section] with a line a key; whoever calls it parses the result and
    compares.
    """
    for key, value in values.items():
        section, _, name = key.partition(".")
        text = _with_value(text.splitlines(), section, name, f"{name} = {_literal(value)}")
    return text


def without_section(text: str, section: str) -> str:
    """`text` without [section] and its sub-sections; comments above the next header stay."""
    kept: list[str] = []
    held: list[str] = []
    inside = False
    for line in text.splitlines():
        if found := HEADER.match(line):
            if inside:
                kept += held
            inside = found[1] == section or found[1].startswith(f"{section}.")
            held = []
        if not inside:
            kept.append(line)
        elif not line.strip() or line.lstrip().startswith("#"):
            held.append(line)
        else:
            held = []
    return "\n".join(kept).rstrip("\n") + "\n"


def _with_value(lines: list[str], section: str, name: str, written: str) -> str:
    start = next((i for i, line in enumerate(lines) if _is_header_of(line, section)), None)
    if start is None:
        return "\n".join([*lines, "", f"[{section}]", written, ""])
    end = next((i for i in range(start + 1, len(lines)) if HEADER.match(lines[i])), len(lines))
    for i in range(start + 1, end):
        if re.match(rf"\s*{re.escape(name)}\s*=", lines[i]):
            stop = next((j for j in range(i + 1, end + 1) if _parses("\n".join(lines[i:j]))), i + 1)
            indent = lines[i][: len(lines[i]) - len(lines[i].lstrip())]
            comment = _comment(lines[i]) if stop == i + 1 else ""
            return "\n".join([*lines[:i], indent + written + comment, *lines[stop:], ""])
    return "\n".join([*lines[: start + 1], written, *lines[start + 1 :], ""])


def _is_header_of(line: str, section: str) -> bool:
    found = HEADER.match(line)
    return found is not None and found[1] == section


def _comment(line: str) -> str:
    """What follows the value on a line, with the space before it."""
    for place in (i for i, character in enumerate(line) if character == "#"):
        if _parses(line[:place]):
            return line[len(line[:place].rstrip()) :]
    return ""


def _parses(text: str) -> bool:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True


def _literal(value: Any) -> str:
    """A TOML literal; JSON's are, for numbers, strings, booleans and lists of them."""
    return json.dumps(value, ensure_ascii=False)
