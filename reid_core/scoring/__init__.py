"""From embeddings to answers (WildFusion).

embeddings (N, D) + match scores → shortlist → probabilities → threshold → identity or `new_individual`.
"""
