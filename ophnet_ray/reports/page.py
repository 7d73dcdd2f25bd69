"""Self-contained HTML pages, without scripts and requests, and the formats of their numbers."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from ophnet_ray.storage.files import write_atomically

NONE = "\N{EN DASH}"


def write_page(path: Path, template: str, values: Mapping[str, Any]) -> None:
    """Fill a template and write the page atomically.

    Args:
        path: HTML file to write.
        template: Name of a file in ``templates``.
        values: Values of the template by name. Texts are escaped; figures are passed as ``Markup``.
    """
    # ids from file names may contain bytes that are not UTF-8
    text = _open_templates().get_template(template).render(values)
    write_atomically(path, text.encode("utf-8", "replace"))


@cache
def _open_templates() -> Environment:
    """Return the environment of the templates, which keeps them compiled."""
    environment = Environment(
        loader=PackageLoader("ophnet_ray.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=format_number,
        breakable=add_breaks,
        count=format_count,
        clock=format_clock,
        plain=format_plain,
        percent=format_percent,
        seconds=format_seconds,
        signed_seconds=format_signed_seconds,
    )
    return environment


def format_number(value: float | None) -> str:
    """Return a share with three decimals, a percentage with one, and a dash for None."""
    if value is None:
        return NONE
    return f"{value:.1f}" if abs(value) >= 2 else f"{value:.3f}"


def format_percent(share: float) -> str:
    """Return a share in percent: 0.253 → 25 %, 0.001 → <1 %."""
    return "<1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def add_breaks(name: str) -> Markup:
    """Allow line breaks after the underscores of a name."""
    return escape(name).replace("_", Markup("_<wbr>"))


def format_count(value: float) -> str:
    """Return a count with separators: 1234567 → 1,234,567."""
    return f"{value:,.0f}"


def format_clock(seconds: float) -> str:
    """Return seconds as hours, minutes and seconds: 3723.4 → 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def format_seconds(seconds: float | None) -> str:
    """Return a short time in seconds with one decimal, and a dash for None."""
    return NONE if seconds is None else f"{seconds:.1f} s"


def format_signed_seconds(seconds: float | None) -> str:
    """Return the same with its sign; none for 0."""
    return format_seconds(seconds) if not seconds else f"{seconds:+.1f} s"


def format_plain(value: Any) -> str:
    """Return a setting as text: floats with four significant digits, a dash for None."""
    if value is None:
        return NONE
    return f"{value:.4g}" if isinstance(value, float) else str(value)
