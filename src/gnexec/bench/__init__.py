"""Measuring gnexec against its own limits, as ratios within one run: machines are noisy, ratios much less so.

Each figure is the median of interleaved rounds: the trivial route and the thing measured take turns, under the same
load generator, the server on one core and the load on another where there are two.
"""
