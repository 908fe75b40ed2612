"""MMBench's tables: reading the official TSV, and writing the workbook (.xlsx) that its server takes."""

import csv
import io
import os
import re
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from xml.sax.saxutils import escape

from visatb.errors import InputError
from visatb.files import read_text

LETTERS = ("A", "B", "C", "D")
NEEDED = ("index", "question", "A", "B")
# What a question and its options say is text, also "None", "nan" or "NA" (sodium).
_TEXT = frozenset(["question", *LETTERS])
# In the other columns: cells that pandas, with which these tables were written, takes for empty.
_EMPTY = frozenset(
    ["", "nan", "NaN", "-nan", "-NaN", "NA", "N/A", "n/a", "#N/A", "<NA>", "NULL", "null", "None", "none", "NONE"]
)
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_PARTS = {
    "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Override PartName="/xl/workbook.xml" '
    'ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"/>'
    '<Override PartName="/xl/worksheets/sheet1.xml" '
    'ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.worksheet+xml"/></Types>',
    "_rels/.rels": '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
    '<Relationship Id="rId1" Target="xl/workbook.xml" '
    'Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"/></Relationships>',
    "xl/workbook.xml": '<workbook xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main" '
    'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships">'
    '<sheets><sheet name="Sheet1" sheetId="1" r:id="rId1"/></sheets></workbook>',
    "xl/_rels/workbook.xml.rels": '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
    '<Relationship Id="rId1" Target="worksheets/sheet1.xml" '
    'Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/worksheet"/></Relationships>',
}

Cell = str | int | None


@dataclass(frozen=True)
class Row:
    """One question of a table.

    Attributes:
        index: its number; 10^6 times a turn plus the number of the question whose options were turned.
        cells: column -> text; None for an empty cell.
        where: file and row, for messages.
    """

    index: int
    cells: dict[str, str | None]
    where: str

    @property
    def options(self) -> dict[str, str]:
        """Letter -> text of the options; they end at the first empty cell, as in LLaVA."""
        found: dict[str, str] = {}
        for letter in LETTERS:
            text = self.cells.get(letter)
            if text is None:
                break
            found[letter] = text
        return found


def read_table(path: str | os.PathLike) -> list[Row]:
    """The rows of an MMBench TSV.

    Raises:
        InputError: naming file and row: a missing column, a row of another length, an index that is no number or
            occurs twice, a question without options.
    """
    # Images stand in the cells as base64. The limit is the whole process's; it is a guard, no setting.
    csv.field_size_limit(sys.maxsize)
    try:
        lines = [line for line in csv.reader(io.StringIO(read_text(path), newline=""), delimiter="\t") if line]
    except csv.Error as error:
        raise InputError(f"{path}: broken TSV: {error}. Download the file again.") from None
    columns = lines[0] if lines else []
    absent = [name for name in NEEDED if name not in columns]
    if absent or len(lines) < 2:
        lack = f"has no column {absent[0]!r}" if absent else "has no question"
        raise InputError(f"{path}: {lack}. Give an official TSV of MMBench.")
    rows: dict[int, Row] = {}
    for n, line in enumerate(lines[1:], 1):
        where = f"{path}: row {n}"
        if len(line) != len(columns):
            raise InputError(f"{where}: must have {len(columns)} cells, got {len(line)}. Download the file again.")
        cells = {name: _content(name, cell) for name, cell in zip(columns, line, strict=True)}
        if not re.fullmatch(r"\d{1,15}", cells["index"] or "", re.ASCII):
            raise InputError(f"{where}: index must be a whole number, got {cells['index']!r}. Download the file again.")
        row = Row(int(cells["index"]), cells, f"{where} (index {cells['index']})")
        if row.index in rows:
            raise InputError(f"{row.where}: index occurs twice. Download the file again.")
        if not row.options:
            raise InputError(f"{row.where}: has no option. Download the file again.")
        rows[row.index] = row
    return list(rows.values())


def workbook(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> bytes:
    """An .xlsx file of one sheet: text as text, whole numbers as numbers, None as an empty cell.

    Characters that XML cannot hold are left out. The same content gives the same bytes.
    """
    body = "".join(f"<row>{''.join(map(_cell, row))}</row>" for row in [list(columns), *rows])
    sheet = (
        '<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">'
        f"<sheetData>{body}</sheetData></worksheet>"
    )
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in (_PARTS | {"xl/worksheets/sheet1.xml": sheet}).items():
            info = zipfile.ZipInfo(name, datetime(1980, 1, 1).timetuple()[:6])
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, f'<?xml version="1.0" encoding="UTF-8" standalone="yes"?>{text}')
    return content.getvalue()


def _content(column: str, cell: str) -> str | None:
    is_empty = not cell if column in _TEXT else cell in _EMPTY
    return None if is_empty else cell


def _cell(value: Cell) -> str:
    if value is None:
        return "<c/>"
    if isinstance(value, int):
        return f"<c><v>{value}</v></c>"
    text = escape(_NOT_XML.sub("", value)).replace("\r", "&#13;")
    return f'<c t="inlineStr"><is><t xml:space="preserve">{text}</t></is></c>'
