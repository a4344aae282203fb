"""``python -m convc``: the command line where ``convc`` is not on the path."""

from .cli import main

main()
