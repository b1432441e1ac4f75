"""An exported model and photographs in, an answer for each of them out.

bundle + photographs that are to be named → answers, candidates, and what of the data was not used.
"""
