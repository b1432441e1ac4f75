"""What the trials run on.

flags → a Ray with enough CPUs and GPUs, budgets, or the reason why it cannot start.
"""
