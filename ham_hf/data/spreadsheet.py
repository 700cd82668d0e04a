"""Tables as people save them: CSV with commas, semicolons or tabs, in UTF-8 or UTF-16."""

import codecs
import csv
import io
import re
from pathlib import Path

import pandas as pd

from ham_hf.errors import InputError

_SEPARATORS = (",", ";", "\t")
_MARKS = {  # byte order mark → encoding; UTF-32's begins with UTF-16's
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # .xlsx and .ods, .xls
_HOW_TO_SAVE = "save it as CSV with UTF-8 encoding (in Excel: Save As, 'CSV UTF-8 (Comma delimited)')"
_DECIMAL_COMMA = r"^\s*(-?\d+),(\d+)\s*$"
_PEEK = 65_536  # bytes that hold a header


def read_table(path: Path) -> pd.DataFrame:
    """Read a table of text: every value a string as it is in the file, but for decimal commas, which become points.

    Args:
        path: comma-, semicolon- or tab-separated values in UTF-8, or in UTF-16 with or without a byte order mark.
            The separator is the one that the header has most of; a first line `sep=;`, as Excel writes it, is heeded.

    Returns:
        The rows, with column names stripped of surrounding spaces. The index holds the line of the file for tables
        without line breaks in their values: 2 for the first row below the header.

    Raises:
        InputError: the file is a workbook, is not text, is no table, or has a column twice.
    """
    text = _decode(path, _read_bytes(path))
    first_line, separator = 1, None
    if mark := re.match(r"sep=(.)\r?\n", text):
        text, separator, first_line = text[mark.end() :], mark[1], 2
    separator = separator or _separator(text.partition("\n")[0])
    try:
        # Without a header: with one, pandas would take the first of too many values in a row for the row's name
        raw = pd.read_csv(io.StringIO(text), sep=separator, header=None, dtype=str, keep_default_na=False)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, ValueError) as error:
        raise InputError(f"{path} is no readable table: {error}; {_HOW_TO_SAVE}") from error
    raw = raw.fillna("")  # of rows that end early
    raw.columns = [name.strip() for name in raw.iloc[0]]
    if twice := sorted(set(raw.columns[raw.columns.duplicated()])):
        raise InputError(f"{path} has the column {twice[0]!r} more than once: expected every name once")
    rows = raw.iloc[1:].replace(_DECIMAL_COMMA, r"\1.\2", regex=True)
    rows.index = range(first_line + 1, first_line + 1 + len(rows))
    return rows


def read_column_names(path: Path) -> list[str]:
    """Return the column names of what may be a table; nothing is raised for a file that is none."""
    try:
        with path.open("rb") as file:
            text = _decode(path, file.read(_PEEK), errors="replace")
    except (InputError, OSError):
        return []
    text = re.sub(r"^sep=.\r?\n", "", text)
    line = text.partition("\n")[0].rstrip("\r")
    try:
        return [name.strip() for name in next(csv.reader([line], delimiter=_separator(line)), [])]
    except csv.Error:
        return []


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def _decode(path: Path, data: bytes, errors: str = "strict") -> str:
    if data.startswith(_WORKBOOKS):
        raise InputError(f"{path} is a workbook of a spreadsheet program, not a text table: {_HOW_TO_SAVE}")
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), None) or _unmarked(data)
    try:
        text = data.decode(encoding, errors)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(
            f"{path} is no readable table: line {line} is not {encoding.upper()} text (byte "
            f"{data[error.start]:#04x}): {_HOW_TO_SAVE}"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _unmarked(data: bytes) -> str:
    """Return the encoding of text without a byte order mark: in UTF-16, every second byte of a header is zero."""
    start = data[:64]
    if len(start) >= 4 and start[1::2].count(0) > len(start) // 4:
        return "utf-16-le"
    return "utf-16-be" if len(start) >= 4 and start[0::2].count(0) > len(start) // 4 else "utf-8"


def _separator(header: str) -> str:
    return max(_SEPARATORS, key=header.count)
