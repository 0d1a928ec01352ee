# Says that _arguments.py is compiled as it is.
