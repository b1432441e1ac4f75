"""Running trials on Ray: Tune, Train, Data.

suggestion → driver → workers → reports, checkpoints, a record in the journal.
"""
