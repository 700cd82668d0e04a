"""Read CSV files as people save them, with commas, semicolons or tabs, in UTF-8 or UTF-16; and write our own."""

import codecs
import csv
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ham_hf.data.file_formats import LFS_POINTER, is_lfs_pointer
from ham_hf.system.errors import InputError

if TYPE_CHECKING:  # it takes long to import, and what `read_rows` reads needs none
    import pandas as pd

_SEPARATORS = (",", ";", "\t", "|")
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
_NAMES = ("image", "file", "file_name", "_id")  # how columns end in which 1,2 is no number
_PEEK = 65_536  # bytes that hold a header


def read_table(path: Path, columns: Iterable[str] = ()) -> "pd.DataFrame":
    """Return a table of strings, exactly as in the file except for decimal commas, which become points.

    Empty rows and columns are dropped, and so is anything above the header, which is the first row with several
    values. Unnamed columns at the left (row numbers) are dropped too. Names of images and lesions keep their commas.

    Args:
        path: values separated by commas, semicolons, tabs or bars, in UTF-8, or in UTF-16 with or without a byte order
            mark. The separator is the most frequent one in the header, or the one in a first line such as `sep=;`,
            which Excel writes.
        columns: names to recognize regardless of case, spaces and hyphens ("Image ID" is image_id).

    Returns:
        The rows, with stripped column names. The index has the line of the file where each row starts.

    Raises:
        InputError: the file is a workbook, is not text or not a table, has a column twice, or a value outside the
            columns.
    """
    import pandas as pd

    text, separator = _separated(_decode(path, _read_bytes(path)))
    try:
        numbered = [(line, row) for line, row in _parse(text, separator) if any(map(str.strip, row))]
    except csv.Error as error:
        raise InputError(f"{path} is not a readable table: {error}; {_HOW_TO_SAVE}") from error
    if not numbered:
        raise InputError(f"{path} is not a readable table: it has no values; {_HOW_TO_SAVE}")
    lines, rows = map(list, zip(*numbered, strict=True))
    top = _header(rows)
    names = _known_names([name.strip() for name in rows[top]], columns)
    named = {name: column for column, name in enumerate(names) if name}
    if len(named) < sum(map(bool, names)):
        twice = sorted({name for name in named if names.count(name) > 1})
        raise InputError(f"{path} has the column {twice[0]!r} more than once: expected each name once")
    first = min(named.values(), default=0)
    for line, row in zip(lines[top + 1 :], rows[top + 1 :], strict=True):
        for column in range(first, len(row)):
            if row[column].strip() and (column >= len(names) or not names[column]):
                raise InputError(
                    f"{path}, line {line}: {row[column][:80]!r} is in a column without a name: name the column "
                    f"in the header, or quote values that contain {separator!r}"
                )
    table = pd.DataFrame(
        {
            name: [row[column] if column < len(row) else "" for row in rows[top + 1 :]]
            for name, column in named.items()
        },
        index=lines[top + 1 :],
        dtype=str,
    )
    numbers = [name for name in table if not name.endswith(_NAMES)]
    table[numbers] = table[numbers].replace(_DECIMAL_COMMA, r"\1.\2", regex=True)
    return table


def read_column_names(path: Path, columns: Iterable[str] = ()) -> list[str]:
    """Return the column names of a file that may be a table, or none if it is not one."""
    try:
        with path.open("rb") as file:
            text, separator = _separated(_decode(path, file.read(_PEEK), errors="replace"))
        rows = []
        for _, row in _parse(text, separator, strict=False):
            rows.append(row)
            if _several_values(row):
                break
    except (InputError, OSError, csv.Error):
        return []
    return _known_names([name.strip() for name in rows[_header(rows)]], columns) if rows else []


def read_rows(path: Path) -> list[list[str]]:
    """Return all rows, including the header, of a comma-separated file that ham_hf wrote.

    Raises:
        InputError: the file is missing or not readable as CSV.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist: expected the file written by `ham-hf train`")
    try:
        return [row for _, row in _parse(_decode(path, _read_bytes(path)), ",")]
    except csv.Error as error:
        raise InputError(f"{path} is not readable as CSV: {error}") from error


def csv_text(rows: Iterable[Iterable]) -> str:
    """Return rows, of which the first is the header, as the text of a file for `read_rows`."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _parse(text: str, separator: str, strict: bool = True) -> Iterator[tuple[int, list[str]]]:
    """Yield the line where each row starts, and its values."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=strict)
    line = 1
    try:
        for row in reader:
            yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise csv.Error(f"line {line}: {error}") from error


def _separated(text: str) -> tuple[str, str]:
    """Return the text, with a line such as `sep=;` emptied, and its separator."""
    if mark := re.match(r"sep=([^\w\s\"]|\t)\n", text):
        return text[mark.end() - 1 :], mark[1]
    header = next((line for line in text.splitlines() if any(map(line.count, _SEPARATORS))), "")
    return text, max(_SEPARATORS, key=header.count)


def _header(rows: list[list[str]]) -> int:
    """Return which row is the header: the first with several values, so that it is not a title above it."""
    return next((number for number, row in enumerate(rows) if _several_values(row)), 0)


def _several_values(row: list[str]) -> bool:
    return sum(bool(value.strip()) for value in row) > 1


def _known_names(names: list[str], columns: Iterable[str]) -> list[str]:
    known = {_key(name): name for name in columns}
    return [known.get(_key(name), name) for name in names]


def _key(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name.casefold())


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def _decode(path: Path, data: bytes, errors: str = "strict") -> str:
    if is_lfs_pointer(data):
        raise InputError(f"{path} is {LFS_POINTER}")
    if data.startswith(_WORKBOOKS):
        raise InputError(f"{path} is a workbook of a spreadsheet program, not a text table: {_HOW_TO_SAVE}")
    if data.startswith(b"PAR1") or data.lstrip()[:1] in (b"{", b"["):
        kind = "Parquet" if data.startswith(b"PAR1") else "JSON"
        raise InputError(f"{path} is a {kind} file, not a text table: save it as CSV (with pandas: to_csv)")
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), None) or _unmarked(data)
    try:
        text = data.decode(encoding, errors)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(
            f"{path} is not a readable table: line {line} is not {encoding.upper()} text (byte "
            f"{data[error.start]:#04x}): {_HOW_TO_SAVE}"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _unmarked(data: bytes) -> str:
    """Return the encoding of text without a byte order mark: in UTF-16, every second byte of a header is zero."""
    start = data[:64]
    if len(start) >= 4 and start[1::2].count(0) > len(start) // 4:
        return "utf-16-le"
    return "utf-16-be" if len(start) >= 4 and start[0::2].count(0) > len(start) // 4 else "utf-8"
