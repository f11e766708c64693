"""Demonstrations on real kinds of work: permutation tests, GEMMA, word counts.

They are plans (`plans`): data that says which programs to run and what to make of their outputs. `scan` and `words` are
the programs that volunteers run, each a file that stands alone.
"""
