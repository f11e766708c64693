"""The same tasks through gnexec and through other queues and schedulers, side by side in one run.

A task does nothing. What is timed goes from the first of `tasks` that are handed in until every one of them has been
run, its result (where there is such a thing) is stored, and whoever handed them in has learnt that all are done, in
the cheapest way that the system offers. Each system is set up as its manual says, as durable as it gets, with as many
workers as are stated; where there was a choice, the faster one was taken. They take turns.
"""
