"""Forms: how the stochastic part of a network is written in the graph. One per file.

Every form declares, in this order: ``posterior`` (all of it), ``describe`` (its member inputs, for the manifest),
``rewrite`` (each stochastic node as data), and ``reference`` (torch's own answer for a given member, or its moments,
which the proof compares with).
"""
