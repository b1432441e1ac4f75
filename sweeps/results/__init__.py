"""What a sweep writes down, and where.

records of trials ↔ result folder or storage; records → tables for people.
"""
