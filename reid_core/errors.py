"""What ends a command with a message instead of a traceback. Standard library only.

mistake of the user, or training that cannot go on → an exception whose text says what is wrong and what helps.
"""


class UserError(ValueError):
    """A mistake in what the user gave (file, row, flag). Command lines print its message without a traceback."""


class TrainingError(RuntimeError):
    """Training cannot go on (a loss or a metric is not a number); the message says where."""
