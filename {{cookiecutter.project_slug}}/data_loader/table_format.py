"""How the cells of a table are written."""

from dataclasses import dataclass

# Names of separators: most of the characters need quotation marks in YAML or on a command line.
SEPARATORS = {
    "comma": ",",
    "point": ".",
    "semicolon": ";",
    "tab": "\t",
    "bar": "|",
    "space": " ",
    "apostrophe": "'",
    "none": "",
}
# Texts of cells without a value.
MISSING = ("NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "-", "?")


@dataclass(frozen=True)
class TableFormat:
    """How the cells of a table are written.

    Attributes:
        delimiter: the character between cells; empty if it is to be detected.
        encoding: name of the encoding of a text file; empty if it is to be detected.
        quotes: whether a cell can be in quotation marks.
        decimal: the decimal separator of numbers.
        thousands: the thousands separator of numbers; empty for none.
        missing: texts of cells that count as empty.
    """

    delimiter: str = ""
    encoding: str = ""
    quotes: bool = True
    decimal: str = "."
    thousands: str = ""
    missing: tuple[str, ...] = MISSING
