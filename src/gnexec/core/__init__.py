"""The laws: what may happen to jobs, as pure functions over events.

Nothing in this package knows the time, draws a random number, or touches a file or socket: `at_ms`, draws and
looked-up facts are arguments. Replaying a log and serving live requests run the very same code.
"""
