"""How good a predictive distribution is, and what its uncertainty is worth.

Everything here takes plain tensors or arrays: probabilities [S, N, K] of S members, or their means and variances
[S, N], and labels or targets [N]. Nothing asks which method made them, and all is worked in float64.
"""
