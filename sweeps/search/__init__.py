"""Which configuration is tried next.

search space + results so far → the next trial's name and values.
"""
