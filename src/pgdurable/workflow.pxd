# Says that workflow.py is compiled as it is.
