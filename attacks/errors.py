"""The one exception that speaks to the user."""


class UserError(Exception):
    """Bad input: the message is one sentence naming the file, the field and the remedy.

    The command line prints it without a traceback and ends with exit code 2.
    """
