"""The terminal chat. loop.py holds it together; everything else is shown, asked or decided in a file of its own.

A new command: a function and a row in `commands.COMMANDS`, what it shows in `told.py` or `sent.py`, and a line in
docs/chat.md.
"""
