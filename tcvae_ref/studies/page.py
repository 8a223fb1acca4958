"""A study as one HTML page, with nothing loaded from elsewhere."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from tcvae_ref.figures import draw
from tcvae_ref.studies.figures import Picture
from tcvae_ref.studies.study import Study
from tcvae_ref.studies.table import Row, columns

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; margin: 2em auto; max-width: 70em; padding: 0 1em; }
blockquote { border-left: 4px solid #0072b2; margin: 1em 0; padding: .2em 1em; background: #f4f7fa; }
pre { font: 12px/1.45 ui-monospace, monospace; background: #f6f6f6; padding: 1em; overflow-x: auto; }
figure { margin: 1.5em 0; } img { max-width: 100%; } figcaption { font-size: 13px; color: #444; }
.wide { overflow-x: auto; } table { font-size: 12px; border-collapse: collapse; }
td, th { padding: .15em .6em; text-align: right; white-space: nowrap; border-bottom: 1px solid #ddd; }
.failed { background: #fbe9e7; } details { margin: 1em 0; } summary { cursor: pointer; }
"""


def page(
    study: Study,
    lines: Sequence[str],
    pictures: Mapping[Picture, bytes],
    rows: Sequence[Row],
    traversals: Sequence[tuple[str, Path]],
    command: str,
) -> str:
    """Write the whole page.

    Parameters
    ----------
    study : Study
    lines : sequence of str
        What the numbers say (`results.lines_of`).
    pictures : mapping
        Each figure, and its PNG.
    rows : sequence of dict
        The table of all runs.
    traversals : sequence of (str, Path)
        What a run is, and its picture, a PNG.
    command : str
        What made all this.
    """
    title = html.escape(study.title)
    failed = sum(row.get("status") == "failed" for row in rows)
    body = [
        f"<h1>{title}</h1>",
        f"<blockquote><p>The claim: {html.escape(study.claim)}</p></blockquote>",
        f"<p>{len(rows)} rows, {failed} failed runs among them; all are reported, none is selected.</p>",
        *(_figure(picture, content) for picture, content in pictures.items()),
        "<h2>Numbers</h2>",
        f"<pre>{html.escape(chr(10).join(lines))}</pre>",
        *_traversals(traversals),
        "<h2>Every run</h2>",
        f"<details><summary>The table, {len(rows)} rows</summary>{_table(rows)}</details>",
        "<h2>How it was made</h2>",
        f"<pre>{html.escape(command)}</pre>",
        *([f"<pre>{html.escape(study.text)}</pre>"] if study.text else []),
    ]
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    return "\n".join(["<!doctype html>", f'<html lang="en"><head>{head}</head><body>', *body, "</body></html>", ""])


def png(picture: Picture) -> bytes:
    """Draw a figure, its caption in the file too."""
    file = io.BytesIO()
    draw(picture.figure, file, {"Description": picture.caption, "Software": None})
    return file.getvalue()


def _figure(picture: Picture, content: bytes) -> str:
    caption = html.escape(picture.caption)
    return f"<figure>{_image(content, picture.name)}<figcaption>{caption}</figcaption></figure>"


def _image(content: bytes, alt: str) -> str:
    data = base64.b64encode(content).decode()
    return f'<img alt="{html.escape(alt, quote=True)}" src="data:image/png;base64,{data}">'


def _traversals(pictures: Sequence[tuple[str, Path]]) -> list[str]:
    if not pictures:
        return []
    shown = [
        f"<details><summary>{html.escape(name)}</summary>{_image(path.read_bytes(), f'traversals of {name}')}</details>"
        for name, path in pictures
    ]
    return ["<h2>Traversals of every model</h2>", *shown]


def _table(rows: Sequence[Row]) -> str:
    names = columns(rows)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    lines = []
    for row in rows:
        cells = "".join(f"<td>{html.escape(_cell(row.get(name)))}</td>" for name in names)
        lines.append(f"<tr{' class=failed' if row.get('status') == 'failed' else ''}>{cells}</tr>")
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
