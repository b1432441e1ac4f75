"""Match scores of pairs, each computed once by all trials together.

content keys of two photographs → their score, or who is computing it.
"""
