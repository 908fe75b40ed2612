"""Self-contained HTML pages: template, style sheet and script in one file, with a policy that allows only these."""

import base64
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visatb.layout import with_minus

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, script: str | None = None, **values: Any) -> str:
    """A page from a template in `templates/`. Every value is escaped, whatever its source.

    A browser runs only `script` and applies only `page.css`: their digests are in the page's content security policy
    (https://www.w3.org/TR/CSP3/).

    Args:
        template: file name.
        script: file name of its script, if it has one.
        values: of the template's variables.
    """
    from markupsafe import Markup

    style = _text("page.css")
    code = _text(script) if script else ""
    policy = f"default-src 'none'; img-src data:; style-src {_digest(style)}; base-uri 'none'; form-action 'none'"
    policy += f"; script-src {_digest(code)}" if script else ""
    # Both are our own files without values, and escaping would break their CSS and JavaScript.
    own = {"style": Markup(style), "script": Markup(code), "policy": Markup(policy)}
    return environment().get_template(template).render(**own, **values)


def environment() -> "Environment":
    """Jinja's environment of the templates, with escaping and the filters that they use."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    found = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"duration": duration, "signed": signed, "minus": with_minus}
    return found


def _text(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def duration(seconds: float) -> str:
    """Seconds as `12.3 s`, `4 min 05 s` or `3 h 20 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def signed(number: float, form: str = "+.2f") -> str:
    """A number in a Python format, with a typographic minus sign."""
    return with_minus(format(number, form))
