"""Tables that programs write into pages of docs/."""

import pathlib


def put(path: pathlib.Path, begin: str, end: str, text: str) -> None:
    """Replaces what is between the two lines; ValueError when they are not there."""
    whole = path.read_text()
    if whole.count(begin) != 1 or whole.count(end) != 1:
        raise ValueError(f"{path} has no place for the table: {begin} … {end}")
    before, rest = whole.split(begin)
    after = rest.split(end)[1]
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}")
