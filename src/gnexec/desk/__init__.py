"""The desk: where the clock, random draws, keys and the store meet the laws.

Requests wait in one queue. Whatever waits when the last commit ends is taken together: lock, catch up, decide, append
and seal, commit, and only then reply.
"""
