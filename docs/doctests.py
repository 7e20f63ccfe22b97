"""Examples in docstrings, which have no heading of their own here, are shown as code in the reference."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Doctests(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """Each run of lines that begins with a prompt, up to an empty line, between fences."""
    return re.sub(r"^>>> .*(?:\n(?!\s*$).+)*", lambda found: f"```pycon\n{found[0]}\n```", text, flags=re.MULTILINE)
