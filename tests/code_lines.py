"""Counts the code lines of Python files, for reports; no test limits them.

    python tests/code_lines.py [FOLDER]

Prints the number of code lines of each file in FOLDER, which is the payload by default, and the
total. Blank lines, comments and docstrings are not code lines.
"""

import ast
import io
import sys
import tokenize
from pathlib import Path

PAYLOAD = Path(__file__).resolve().parent.parent / "{{cookiecutter.project_slug}}"
NOT_CODE = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)


def code_lines(text: str) -> set[int]:
    """Returns the numbers of the lines that are not blank, not a comment and not a docstring."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in (*NOT_CODE, tokenize.ENDMARKER):
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Constant):
            continue
        if isinstance(node.value.value, str):
            last = node.end_lineno or node.lineno
            lines -= set(range(node.lineno, last + 1))
    return lines


def main() -> None:
    """Prints a line for each file, then the total."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else PAYLOAD
    total = 0
    for file in sorted(folder.rglob("*.py")):
        count = len(code_lines(file.read_text(encoding="utf-8")))
        total += count
        print(f"{count:6} {file.relative_to(folder)}")
    print(f"{total:6} total")


if __name__ == "__main__":
    main()
