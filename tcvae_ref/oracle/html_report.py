"""A report as one HTML page: the text, and a picture of the weights that the target uses."""

import base64
import html
import io
from typing import TYPE_CHECKING

from tcvae_ref.checks import InputError
from tcvae_ref.oracle.types import FAILURES, Report

if TYPE_CHECKING:
    from tcvae_ref.oracle.weight_probe import WeightProbe

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; }
pre { font: 13px/1.45 ui-monospace, monospace; background: #f6f6f6; padding: 1em; overflow-x: auto; }
.PASS { color: #00663a } .FAIL { color: #a11 }
img { max-width: 100%; }
"""


def page(report: Report, text: str, weights: "WeightProbe | None" = None) -> str:
    """The whole page; nothing in it is loaded from elsewhere.

    Parameters
    ----------
    report : Report
    text : str
        As `report.text` writes it.
    weights : WeightProbe, optional
        What was recovered; it needs matplotlib for its picture, and is numbers without.
    """
    state = "FAIL" if report.verdict in FAILURES else "PASS" if report.exit_status == 0 else ""
    body = [
        f'<h1><span class="{state}">{report.verdict}</span> {html.escape(report.target)}</h1>',
        f"<pre>{html.escape(text)}</pre>",
        *(_weights(weights) if weights is not None else []),
    ]
    head = f'<meta charset="utf-8"><title>{html.escape(report.target)}: {report.verdict}</title><style>{_STYLE}</style>'
    return "\n".join(["<!doctype html>", f'<html lang="en"><head>{head}</head><body>', *body, "</body></html>", ""])


def _weights(weights: "WeightProbe") -> list[str]:
    from tcvae_ref.oracle.weight_probe import weights_figure, weights_text

    lines = ["<h2>The weights it uses</h2>", f"<pre>{html.escape(weights_text(weights))}</pre>"]
    try:
        figure = weights_figure(weights)
    except InputError:  # no matplotlib
        return lines
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    data = base64.b64encode(picture.getvalue()).decode()
    return [*lines, f'<img alt="the recovered weights as a matrix" src="data:image/png;base64,{data}">']
