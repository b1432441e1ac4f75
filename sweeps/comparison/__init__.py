"""The paper's tables and figures beside ours.

metrics and reports of each row → tables.md, .csv and figures/*.png.
"""
