"""Messages as files, each with the verdict that is due; `make.py` rebuilds them, `book.py` reads and judges them."""
