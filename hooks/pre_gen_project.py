"""Stops before files of the user are overwritten that have the names of other options' files.

Cookiecutter writes the files of all options; the post-generation hook removes those of the options
that were not selected.
"""

import os
import sys

FOREIGN = "{{ cookiecutter | foreign }} licenses/{{ cookiecutter.license }}"

for file in FOREIGN.split():
    if os.path.lexists(file):
        sys.exit(
            f"error: {file} exists and would be lost: it is not part of a project with these "
            "options; move it elsewhere, then run the command again"
        )
