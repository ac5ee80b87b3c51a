"""comparison.html: one file that needs nothing else."""

from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tokenswarm.compare.result import Result
from tokenswarm.compare.sections import sections
from tokenswarm.compare.show import about, warnings


def html(r: Result) -> str:
    """The page; everything that a server said is escaped."""
    made = Environment(
        loader=PackageLoader("tokenswarm.compare"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    style = files("tokenswarm.report").joinpath("assets", "report.css").read_text("utf-8")
    return made.get_template("comparison.html.j2").render(
        r=r, sections=sections(r), warnings=warnings(r), about=about(r), style=Markup(style)
    )
