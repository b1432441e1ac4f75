"""A sweep of its own for each species group.

`Sweep` + names of groups → a sweep of each group in OUT/groups → one model per group, and the metrics of all of them.
"""
