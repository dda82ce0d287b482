"""Self-contained HTML pages: style, escaping and tables."""

from __future__ import annotations

import html
from collections.abc import Sequence

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
h1, h2 {{ line-height: 1.2 }} h2 {{ margin-top: 2.5rem; border-bottom: 1px solid #ccc }}
table {{ border-collapse: collapse; margin: 1rem 0 }} td, th {{ padding: .25rem .8rem .25rem 0; text-align: left;
vertical-align: top; border-bottom: 1px solid #eee }}
td.number, th.number {{ text-align: right; font-variant-numeric: tabular-nums }}
svg {{ max-width: 100%; height: auto }} audio {{ height: 2rem }} .note {{ color: #a40 }} .quiet {{ color: #666 }}
</style></head><body>
<h1>{title}</h1>
<p class="quiet">{folder}</p>
{body}
</body></html>
"""


class Html(str):
    """HTML in a cell of a table, which is not escaped again."""

    __slots__ = ()


def page(title: str, folder: str, body: str) -> bytes:
    """Return a page in UTF-8.

    Args:
        title: Title, as text.
        folder: What the page is about, as text; long paths wrap after slashes.
        body: Content, as HTML.
    """
    content = _PAGE.format(title=html.escape(title), folder=escape(folder), body=body)
    return content.encode("utf-8", errors="surrogateescape")


def escape(text: str) -> str:
    """Escape text for HTML and let it wrap after slashes, so that long paths fit without breaking words."""
    return html.escape(text).replace("/", "/<wbr>")


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return an HTML table. Numbers are right-aligned, long paths wrap, and all but `Html` is escaped."""

    def cell(tag: str, value: object) -> str:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        text = f"{value:.4f}" if isinstance(value, float) and 1e-3 < abs(value) < 1e6 else f"{value}"
        if isinstance(value, list):
            text = ", ".join(map(str, value))
        text = "–" if value is None or text == "" else text
        return (
            f"<{tag}{' class=number' if is_number else ''}>{text if isinstance(value, Html) else escape(text)}</{tag}>"
        )

    lines = ["<tr>" + "".join(cell("th", name) for name in head) + "</tr>"]
    lines += ["<tr>" + "".join(cell("td", value) for value in row) + "</tr>" for row in rows]
    return "<table>\n" + "\n".join(lines) + "\n</table>"
