"""One training step: its loss and gradients, of all images at once or in parts, and the memory that it takes.

images of a rank + model → loss, gradients; configuration → predicted bytes, and the way to go through a step that fits.
"""
