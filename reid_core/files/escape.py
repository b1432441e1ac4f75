"""Names from data where people see them: on a terminal, in Markdown, in a spreadsheet.

text → text that shows its own characters, and that nothing takes for a command, markup or a formula.
"""

import re

# A spreadsheet takes a cell that begins so for a formula (OWASP, "CSV Injection"); the last four are full-width.
_FORMULA = re.compile(r"[=+\-@\t\r\0\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?")
# An underscore within a word does not mean emphasis.
_MARKUP = re.compile(r"(?<!\w)_+|_+(?!\w)|[\\`|*$<>\[\]~&]")


def escape_line(text: str) -> str:
    r"""A text as one line that shows what it holds: a character that is not printable becomes its Python escape.

    So no name moves the cursor, recolours or clears the terminal, writes from right to left, or begins another line.

    Example:
        >>> print(escape_line("ada\x1b[2J\n\u202eexe"), escape_line("Nyårs-Ída 鹿"))
        ada\x1b[2J\n\u202eexe Nyårs-Ída 鹿
    """
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def escape_lines(text: str) -> str:
    r"""A message of several lines, each of them escaped.

    Example:
        >>> print(escape_lines("first\nsecond \x1b[31mred"))
        first
        second \x1b[31mred
    """
    return "\n".join(map(escape_line, text.split("\n")))


def escape_markdown(text: str) -> str:
    r"""A name as one line of Markdown, also within a table, that shows its own characters; HTML in it too.

    Example:
        >>> print(escape_markdown("a|b `c` <img> $d$ __e__"), escape_markdown("batch64_warmup"))
        a\|b \`c\` \<img\> \$d\$ \_\_e\_\_ batch64_warmup
    """
    line = escape_line(" ".join(text.split()))
    return _MARKUP.sub(lambda found: "".join(f"\\{sign}" for sign in found[0]), line)


def escape_cell(text: str) -> str:
    r"""A value for a CSV file that people open in a spreadsheet: one that looks like a formula gets an apostrophe.

    Numbers stay, also negative ones. The apostrophe is shown by some spreadsheets: not for files that programs read.

    Example:
        >>> escape_cell('=HYPERLINK("http://x")'), escape_cell("-17"), escape_cell("-1+1|cmd"), escape_cell("ada=1")
        ('\'=HYPERLINK("http://x")', '-17', "'-1+1|cmd", 'ada=1')
    """
    is_formula = _FORMULA.match(text) and not _NUMBER.fullmatch(text)
    return ("'" if is_formula else "") + escape_line(text)
