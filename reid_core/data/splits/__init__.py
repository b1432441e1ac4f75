"""Which image plays which part.

identity, group, date (N,) → part (N,): training, validating, thresholdSet, testSet.
"""
