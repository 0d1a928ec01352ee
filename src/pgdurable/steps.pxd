# Says that steps.py is compiled as it is.
