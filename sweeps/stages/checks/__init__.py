"""What would end a sweep later, found before anything costs time; `--plan` and the run call the same functions.

`Sweep`, data, machines → the same sweep without values that no trial can have, or the error that the run ends with.
"""
