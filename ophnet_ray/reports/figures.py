"""Parts of figures, and figures as inline SVG for pages or as pixels for TensorBoard.

Figures are drawn in the colours of the light theme. In an SVG these become the CSS variables of the
page, so one file serves light mode, dark mode and print. Sizes are CSS pixels.
"""

import io
import re
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

INK, MUTED, LINE, PAPER = "#1b1f24", "#5c6470", "#dde1e6", "#fdfdfe"
ACCENT, SECOND, BAD = "#2463eb", "#c2570d", "#c81e3a"
FONT_PX = 11
DPI = 72  # a point is a CSS pixel
FEW_PHASES = 8

_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    PAPER: "var(--paper)",
    ACCENT: "var(--accent)",
    SECOND: "var(--second)",
    BAD: "var(--bad)",
}
_NO_METADATA = {"Creator": None, "Date": None, "Format": None, "Type": None}


def new_figure(width: float, height: float) -> Figure:
    """Create an empty figure with a transparent background; sizes in pixels."""
    return Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="none")


def add_axes(figure: Figure, left: float, top: float, right: float, bottom: float) -> Axes:
    """Add plain axes that leave these margins, in pixels."""
    width, height = figure.get_size_inches() * DPI
    axes = figure.add_axes(
        (
            left / width,
            bottom / height,
            max(width - left - right, 1) / width,
            max(height - top - bottom, 1) / height,
        ),
        facecolor="none",
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(color=LINE, labelcolor=MUTED, labelsize=FONT_PX, length=3, which="both")
    axes.grid(color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    return axes


def label_axes(axes: Axes, x: str, y: str) -> None:
    """Label x below the axis and y horizontally above its axis."""
    axes.set_xlabel(x, color=MUTED, fontsize=FONT_PX)
    axes.set_title(y, color=MUTED, fontsize=FONT_PX, loc="left", pad=8)


def to_svg(figure: Figure, key: str, title: str) -> Markup:
    """Return the figure as inline SVG.

    Args:
        figure: Figure of ``new_figure``.
        key: A word that no other figure of the page has; it makes ids unique.
        title: Text for screen readers.
    """
    FigureCanvasSVG(figure)
    text = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": key}):
        figure.savefig(text, format="svg", metadata=_NO_METADATA)
    svg = text.getvalue()
    width, height = figure.get_size_inches() * DPI
    svg = svg[svg.index("<svg") :]
    svg = re.sub(
        r"<svg[^>]*>",
        f'<svg role="img" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}"><title>{escape(title)}</title>',
        svg,
        count=1,
    )
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL)
    # only ids that are referred to matter; they must be unique on the page
    referred = set(re.findall(r'(?:href="|url\()#([\w.-]+)', svg))
    svg = re.sub(
        r' id="([^"]*)"',
        lambda found: f' id="{key}-{found[1]}"' if found[1] in referred else "",
        svg,
    )
    svg = re.sub(r'(?:xlink:)?href="#', f'href="#{key}-', svg)
    svg = svg.replace("url(#", f"url(#{key}-")
    svg = re.sub(r"; font-family: [^;\"]*|font-family: [^;\"]*; ", "", svg)
    svg = re.sub(r' transform="rotate\(-0 [^"]*"', "", svg)
    svg = re.sub(r"\n\s*", "\n", svg)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, variable)
    return Markup(svg)  # noqa: S704 - matplotlib has escaped all texts


def to_pixels(figure: Figure, scale: float = 1.0) -> NDArray[np.uint8]:
    """Draw the figure as uint8 RGB (H, W, 3) in the colours of the light theme."""
    figure.set_facecolor(PAPER)
    figure.set_dpi(DPI * scale)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.array(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]


def phase_colors(num_phases: int) -> tuple[str, ...]:
    """Return one colour per label, the same in all figures of a report.

    Up to eight phases get the colours of Okabe and Ito, which colour-blind people can distinguish.
    No larger set has this property: beyond eight, neighbouring labels differ clearly, and figures
    show names where they fit.
    """
    if num_phases <= FEW_PHASES:
        few = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442")
        return (*few, "#8f8f8f")[:num_phases]
    names = ("tab20", "tab20b", "tab20c")
    many = [to_hex(mpl.colormaps[name](i)) for i in range(20) for name in names]
    return tuple(many[7 * label % len(many)] for label in range(num_phases))


def text_color(background: str) -> str:
    """Return black or white, the one with more contrast to the background."""
    red, green, blue = to_rgb(background)
    return "#000000" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "#ffffff"


def shorten(text: str, max_length: int = 24) -> str:
    """Cut a name to a length and escape ``$``, which matplotlib would read as a formula."""
    cut = text if len(text) <= max_length else text[: max_length - 1] + "…"
    return " ".join(cut.split()).replace("$", r"\$")


def text_width(text: str, font_px: float = FONT_PX) -> float:
    """Return an upper estimate of a text's width, pixels."""
    return 0.62 * font_px * len(text)


def max_text_width(texts: Sequence[str], font_px: float = FONT_PX) -> float:
    """Return an upper estimate of the widest text's width, pixels; 0 for no text."""
    return max((text_width(text, font_px) for text in texts), default=0.0)
