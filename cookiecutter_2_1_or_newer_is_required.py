"""Its name is the error message of versions of cookiecutter that are too old for this template.

They do not find the extensions of a template. They stop at the first one in cookiecutter.json,
which is this, and print: Unable to load extension: No module named and the name of this module.
"""

from jinja2.ext import Extension


class Marker(Extension):
    """Does nothing."""
