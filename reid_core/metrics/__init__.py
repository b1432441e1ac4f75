"""What the answers are worth.

answers and truth per query → BAKS, BAUS, GEO_MEAN with intervals; scores of re-runs → a confirmed score.
"""
