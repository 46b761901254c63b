"""HTML from Python whose texts are escaped unless they are said to be HTML."""

import html
import json
from typing import Any

__all__ = ["Html", "data_element", "element", "join"]

VOID = {"input", "link", "meta", "br", "img", "path", "line", "rect", "circle"}


class Html(str):
    """A text that is HTML already."""


def element(name: str, *children: str, **attributes: Any) -> Html:
    """An element; children and values are escaped, but for children that are `Html`.

    Args:
        name: of the element.
        attributes: `class_` for class, `data_x` for data-x; None or False leave one out, True
            writes the name alone.
    """
    text = "".join(
        f" {_attribute(key)}"
        if value is True
        else f' {_attribute(key)}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in VOID and not children:
        return Html(f"<{name}{text}/>")
    return Html(f"<{name}{text}>{join(*children)}</{name}>")


def join(*children: str) -> Html:
    """The children one after the other."""
    return Html("".join(c if isinstance(c, Html) else html.escape(c) for c in children))


def _attribute(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def data_element(identifier: str, value: Any) -> Html:
    """Values for the page's script, as JSON that no text in it can end.

    In a script element `</script` and `<!--` have a meaning wherever they stand; the characters
    that could begin one are written as escapes of JSON, as is all that is not ASCII.
    """
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Html(f'<script type="application/json" id="{html.escape(identifier)}">{text}</script>')
