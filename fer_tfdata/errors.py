"""The one exception that a person can mend: the programs print it as one line."""


class InputError(ValueError):
    """Something given to the project is not as it must be: a file, a row, a flag, a directory.

    The message says what was expected, what was received, where, and what to do about it.
    """
