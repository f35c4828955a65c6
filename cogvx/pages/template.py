"""Templates of pages: everything that is put in is escaped, everything that is absent is an error.

A template may include `base.css.jinja`, the look that all pages share.
"""

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


def render_template(package: str, name: str, **values: object) -> str:
    """Fill the template `name` that lies in a package."""
    environment = Environment(
        loader=ChoiceLoader(
            [PackageLoader(place, package_path="") for place in (package, "cogvx.pages")]
        ),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name).render(**values)
