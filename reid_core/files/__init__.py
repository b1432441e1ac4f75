"""Files and text, whatever they are about: written whole, checked, escaped.

content → a file that is there whole or not at all; a file → whether it is what was written.
"""
