"""Errors that a person can act on."""


class UserError(Exception):
    """One sentence that names the file, the field and the remedy."""
