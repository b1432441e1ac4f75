"""The paper's comparison: its systems as they are, without search, their tables and figures beside the paper's.

command line → a trial per row → metrics, answers and reports of each row → tables.md, .csv and figures/*.png.
"""
