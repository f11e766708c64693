"""Policies: rules that choose among what the laws allow. Each is a set of pure functions over jobs and the world."""
