"""Errors that a person can act on."""

MOST = 1000


class UserError(Exception):
    """One sentence that names the file, the field and the remedy.

    Whatever a hostile file put into it, the message is one line of at most MOST printable characters.
    """

    def __init__(self, message: object = "") -> None:
        # Not escapes for the terminal either: names come out of files that anyone may have made.
        line = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in str(message))
        half = MOST // 2 - 3
        super().__init__(line if len(line) <= MOST else f"{line[:half]} ... {line[-half:]}")
