# replay.py has no classes; this file lets it be compiled as it is: it runs once per row of history.
