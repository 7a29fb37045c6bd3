"""Refuses to overwrite files that a user has put where other options bring theirs.

Cookiecutter writes all options' files, and the hook that comes after removes those not chosen.
"""

import os
import sys

FOREIGN = "{{ cookiecutter | foreign }} licenses/{{ cookiecutter.license }}"

for file in FOREIGN.split():
    if os.path.lexists(file):
        sys.exit(f"error: {file} is there, and in no project with these options; move it away")
