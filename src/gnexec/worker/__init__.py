"""The door of volunteers: ask for work, run it where it can do no harm, send back signed results.

From below:
- what the machine allows: `limits`, `seccomp`, `cgroup`, `workdir`, `tree`, `capabilities`;
- one command to its end, and what it left: `sandbox`, `wrap`, `launch`, `logfile`, `execute`, `collect`;
- what is kept on disk: `spool`, `statedir`, `inputs`, `identity`;
- what is said to the server, and when: `link`, `contact`, `report`, `pulse`, `answer`, `job`, `slots`;
- the loop: `agent`.
"""
