"""The course of a sweep, stage by stage.

flags → search → confirmation → training on → `testSet`, once → bundle and result.
"""
