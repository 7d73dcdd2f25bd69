"""The one kind of HTML page that all reports are: one file, no script, no request to anywhere."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from ophnet_ray.storage.files import write_atomically

NONE = "\N{EN DASH}"


def write_page(path: Path, template: str, values: Mapping[str, Any]) -> None:
    """Fill a template of the package and write the page, whole or not at all.

    Args:
        path: The HTML file.
        template: Name of a file in ``templates``.
        values: By the names that the template uses. Texts are escaped, whatever they hold; figures
            come as ``Markup``.
    """
    environment = Environment(
        loader=PackageLoader("ophnet_ray.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=format_number,
        breakable=breakable,
        count=format_count,
        clock=format_clock,
        plain=format_plain,
        percent=format_percent,
    )
    # ids from file names may hold bytes that are no UTF-8
    text = environment.get_template(template).render(values)
    write_atomically(path, text.encode("utf-8", "replace"))


def format_number(value: float | None) -> str:
    """Return a share with three decimals, a percentage with one, and a dash for None."""
    if value is None:
        return NONE
    return f"{value:.1f}" if abs(value) >= 2 else f"{value:.3f}"


def format_percent(share: float) -> str:
    """0.253 → 25 %; what is there is never called 0."""
    return "<1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def breakable(name: str) -> Markup:
    """A name that a narrow column breaks after its underscores."""
    return escape(name).replace("_", Markup("_<wbr>"))


def format_count(value: float) -> str:
    """1234567 → 1,234,567."""
    return f"{value:,.0f}"


def format_clock(seconds: float) -> str:
    """3723.4 → 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def format_plain(value: Any) -> str:
    """A setting as a person writes it."""
    if value is None:
        return NONE
    return f"{value:.4g}" if isinstance(value, float) else str(value)
