"""The SDK: hand in jobs, wait for them, fetch what they made, from Python.

```python
from gnexec import Client

with Client("http://127.0.0.1:8000") as client:
    job = client.submit(["wc", "-l", "in.txt"], inputs={"in.txt": Path("samples.txt")}, outputs=["stdout"])
    client.wait(job.id)
    print(client.stdout(job.id).decode())
```

Everything is synchronous and may be shared between threads. What fails on the way is tried again, which is safe: blobs
are named by their content, and each submission carries an idempotency key.

From below: `transport` (one request, its retries, its errors) · `files` (bytes up and down, checked) · `events` (a
job's stream) · `api` (the calls) · `probe`
(looking for a fault).
Workers speak to the server in their own way (`gnexec.worker`).
"""

from __future__ import annotations

from gnexec.client.api import Client, JobOptions
from gnexec.client.events import JobEvent
from gnexec.client.files import Moved

__all__ = ["Client", "JobEvent", "JobOptions", "Moved"]
