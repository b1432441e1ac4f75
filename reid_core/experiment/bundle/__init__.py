"""The exported model, a folder that executes nothing when it is loaded.

trained model, decision, gallery → bundle, or one for each species group → the same again.
"""
