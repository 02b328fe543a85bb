"""What the pages have in common: one HTML file each, with its style, charts and images inside, and no script."""

import base64
import io
import re
from pathlib import Path

import matplotlib
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

_HERE = Path(__file__).parent
_NAMES = ("accent", "median", "soft", "line", *(f"series-{number}" for number in range(1, 9)))
_VARIABLES = {f"#{i:06x}": f"var(--{name})" for i, name in enumerate(_NAMES, 1)}
"""Matplotlib knows no CSS variables, so each has a colour that stands for it until the chart is drawn"""
ACCENT, MEDIAN, SOFT, LINE, *SERIES = _VARIABLES


def render(template: Path, *styles: Path, **values: object) -> bytes:
    """Fill in a template, which may import from parts.html.jinja, and has `style`: page.css, then these files.

    The same values give the same bytes.
    """
    environment = Environment(
        autoescape=True,
        trim_blocks=True,
        undefined=StrictUndefined,
        loader=FileSystemLoader([template.parent, _HERE]),
    )
    environment.filters["comma"] = "{:,}".format
    style = Markup("".join(path.read_text("utf-8") for path in (_HERE / "page.css", *styles)))
    return environment.get_template(template.name).render(style=style, **values).encode(errors="replace")


def data_uri(image: Image.Image, at_most: int) -> str:
    """Return an image as a JPEG inside its address, made smaller if it is wider or higher than `at_most` pixels."""
    image.thumbnail((at_most, at_most))
    image.save(buffer := io.BytesIO(), "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def svg(figure: Figure) -> Markup:
    """Return a figure as inline SVG in the page's colours and font; ids that begin with `tip: ` become tooltips."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "sluice"}):
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    dropped = r'<\?xml.*?(?=<svg)|<defs>.*?</defs>|font-family: [^;]*; | id="(?!tip: )[^"]*"|\n *(?=<)'
    drawn = re.sub(dropped, "", buffer.getvalue(), flags=re.DOTALL)
    drawn = re.sub(r' id="tip: ([^"]*)">', r"><title>\1</title>", drawn)
    return Markup(re.sub("|".join(_VARIABLES), lambda found: _VARIABLES[found[0]], drawn))
