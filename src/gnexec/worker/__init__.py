"""The door of volunteers: ask for work, run it where it can do no harm, send back signed results.

From below: `limits`, `seccomp`, `cgroup`, `workdir`, `tree` (what the machine allows) · `sandbox`, `wrap`, `launch`,
`execute`, `collect` (one command to its end, and what it left) · `spool`, `statedir`, `inputs`, `identity` (what is kept
on disk) · `link`, `contact`, `report`, `pulse`, `answer`, `job`, `slots` (what is said to the server, and when) · `agent`
(the loop).
"""
