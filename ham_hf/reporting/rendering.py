"""The Jinja environment of the report, the cards and the pages made from `templates/`."""

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources

import jinja2
from markupsafe import Markup, escape

from ham_hf.evaluation.bootstrap import DRAWS
from ham_hf.evaluation.metrics import CALIBRATION_BINS, COLLAPSED_SHARE
from ham_hf.evaluation.subgroups import FEWEST_LESIONS, FEWEST_MELANOMAS, FIELDS
from ham_hf.labels import MALIGNANT, classes_of
from ham_hf.reporting import formats, tables

_FILTERS = {
    "count": formats.count,
    "escaped": formats.escape,
    "fence": formats.fence_around,
    "full_name": formats.full_name,
    "images_of_lesions": formats.images_of_lesions,
    "number": formats.number,
    "of_lesions": formats.of_lesions,
    "percent": formats.percent,
    "classes": classes_of,
    "table": lambda content: "\n".join(formats.table(*content)),
    "evaluated": lambda results: [split for split, found in results.items() if found is not None],
    "of_split": lambda names, split: [name for name in names if name.endswith(f"_{split}.png")],
}
_GLOBALS = {
    "tables": tables,
    "bins": CALIBRATION_BINS,
    "collapsed_share": COLLAPSED_SHARE,
    "draws": DRAWS,
    "fewest_lesions": FEWEST_LESIONS,
    "fewest_melanomas": FEWEST_MELANOMAS,
    "fields": FIELDS,
    "malignant": MALIGNANT,
    "synthetic": formats.SYNTHETIC,
}


def render(template: str, **values: object) -> str:
    """Return a template of `templates/` with these values; all of them must be there."""
    return _environment().get_template(template).render(**values)


def render_section(name: str, *values: object) -> str:
    """Return a section of `templates/sections.md.jinja` as Markdown."""
    sections: Mapping = vars(_environment().get_template("sections.md.jinja").module)
    return sections[name](*values).strip()


def line(text: str) -> str:
    """Join the lines of a sentence."""
    return " ".join(str(text).split())


def inline(text: str) -> Markup:
    """Return a line of Markdown as HTML: its **, * and ` become tags, escaped characters themselves."""
    return Markup(_tags(str(escape(line(text)))))


def _tags(escaped: str) -> str:
    names = {"**": "strong", "*": "em", "`": "code"}
    return re.sub(
        r"\\(.)|(\*\*|\*|`)((?:\\.|[^\\])+?)\2",
        lambda found: found[1] or f"<{names[found[2]]}>{_tags(found[3])}</{names[found[2]]}>",
        escaped,
    )


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(
            lambda name: resources.files("ham_hf.reporting").joinpath("templates", name).read_text("utf-8")
        ),
        undefined=jinja2.StrictUndefined,
        autoescape=lambda name: name is not None and name.endswith(".html.jinja"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= _FILTERS | {"inline": inline, "line": line}
    environment.globals |= _GLOBALS
    return environment
