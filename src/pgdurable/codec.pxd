# Says that codec.py is compiled as it is.
