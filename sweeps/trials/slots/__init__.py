"""Slots: workers that stay, and serve one trial after the other.

trials that Ray Tune starts → the desk of a slot → its workers → reports back to Ray Tune.
"""
