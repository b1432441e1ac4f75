"""Dates as people and cameras write them; only those that can be read in one way.

text → ISO date, `YYYY-MM-DD` with the time that followed it; or None. A day is a date without its time.
"""

import re
from collections.abc import Sequence
from datetime import date

from reid_core.data.table.findings import Finding, make_finding, show_lines

EARLIEST = "1900-01-01"
# Whatever else follows a day (another day, a question mark) makes it doubtful.
_CLOCK = r"(?:[01]?[0-9]|2[0-3]):[0-5][0-9](?::(?:[0-5][0-9]|60)(?:[.,][0-9]+)?)?"
_COMPACT_CLOCK = r"(?:[01][0-9]|2[0-3])[0-5][0-9](?:[0-5][0-9]|60)?(?:[.,][0-9]+)?"
_ZONE = r"(?: *(?:[AaPp][Mm]))?(?: *(?:Z|UTC|GMT|[-+][0-9]{2}(?::?[0-9]{2})?))?"
_YEAR_FIRST = re.compile(  # 2015:07:02 is EXIF's
    rf"([0-9]{{4}})([-/.:])([0-9]{{1,2}})\2([0-9]{{1,2}})((?:T| +){_CLOCK}{_ZONE})?"
)
_COMPACT = re.compile(rf"([0-9]{{4}})()([0-9]{{2}})([0-9]{{2}})(T(?:{_CLOCK}|{_COMPACT_CLOCK}){_ZONE})?")


def parse_date(text: str | None) -> str | None:
    """A date with the year first as ISO has it; None where it is empty, no date, could be two, or is doubtful.

    The order of day and month is not guessed, so none that begins with one of them is read. After the day nothing may
    stand but a time.

    Example:
        >>> [parse_date(text) for text in ("2021-07-05T08:30", "2015:07:02 11:04:59", "2021/7/5", "20210705")]
        ['2021-07-05T08:30', '2015-07-02 11:04:59', '2021-07-05', '2021-07-05']
        >>> [parse_date(text) for text in ("5.7.2021", "2021-02-30", "2021", "2021-07-05 - 2021-07-09", None)]
        [None, None, None, None, None]
    """
    text = (text or "").strip()
    match = _YEAR_FIRST.fullmatch(text) or _COMPACT.fullmatch(text)
    try:
        return date(int(match[1]), int(match[3]), int(match[4])).isoformat() + (match[5] or "") if match else None
    except ValueError:
        return None


def day_of(moment: str | None) -> str | None:
    """The day of a date that `parse_date` reads, without its time.

    Example:
        >>> day_of("2021-07-05T08:30:00"), day_of("2015:07:02 11:04:59"), day_of("5.7.2021"), day_of(None)
        ('2021-07-05', '2015-07-02', None, None)
    """
    moment = parse_date(moment)
    return moment[: len("YYYY-MM-DD")] if moment else None


def read_dates(where: str, date_N: Sequence[str], line_N: Sequence[int]) -> tuple[list[str | None], list[Finding]]:
    """Dates of a table as ISO, and what was changed, not read, or cannot be.

    Args:
        where: The table's name.
        date_N: As they stand, "" where there is none.
        line_N: Line of each.
    """
    read_N = [parse_date(text) for text in date_N]
    today = date.today().isoformat()
    pairs = list(enumerate(zip(date_N, read_N, strict=True)))
    changed = [row for row, (text, read) in pairs if read and read != text]
    lost = [row for row, (text, read) in pairs if text and not read]
    odd = [row for row, (_, read) in pairs if read and not EARLIEST <= read[:10] <= today]
    kinds = {
        f"{len(changed)} date(s) read as YYYY-MM-DD": changed,
        f"{len(lost)} of {sum(map(bool, date_N))} dates taken as missing, because they are no single day, or day and "
        "month could be exchanged (write YYYY-MM-DD)": lost,
        f"{len(odd)} date(s) before 1900 or in the future, taken as they are": odd,
    }
    findings = [
        make_finding(where, what, show_lines(line_N, date_N, rows), len(rows)) for what, rows in kinds.items() if rows
    ]
    return read_N, findings
