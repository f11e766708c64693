"""A volunteer with nothing but an HTTP client, as open mode allows it; what its jobs do is said by the test."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Thread
from typing import Any

import httpx2


class Volunteer:
    """Takes jobs from a server in open mode and answers for them."""

    def __init__(self, url: str) -> None:
        """Be ready for the server at `url`."""
        self._http = httpx2.Client(base_url=url, timeout=60)

    def take(self) -> dict[str, Any]:
        """Wait for a job and take it."""
        while True:
            reply = self._http.get("/jobs/next", params={"wait": 10}).raise_for_status()
            if reply.status_code == 200:
                return dict(reply.json())

    def input(self, job: Mapping[str, Any], path: str) -> bytes:
        """Fetch an input of a job."""
        reply = self._http.get(f"/v1/blobs/{job['inputs'][path]}", headers=_bearer(job))
        return reply.raise_for_status().content

    def tell(self, job: Mapping[str, Any], progress: float, stdout: str = "") -> None:
        """Tell how far a job is, and what it printed so far."""
        body = {"progress": progress, "stdout": stdout, "stdout_offset": 0}
        self._http.put(f"/jobs/{job['id']}/status", json=body, headers=_bearer(job)).raise_for_status()

    def give(self, job: Mapping[str, Any], stdout: str = "", exit_code: int = 0, **more: Any) -> None:  # noqa: ANN401
        """Give a job's result."""
        body = {"exit_code": exit_code, "stdout": stdout} | more
        self._http.put(f"/jobs/{job['id']}/result", json=body, headers=_bearer(job)).raise_for_status()

    def do_next(self, stdout: str = "", exit_code: int = 0, **more: Any) -> None:  # noqa: ANN401
        """Take the next job and give this result."""
        self.give(self.take(), stdout, exit_code, **more)

    def soon(self, stdout: str = "", exit_code: int = 0, **more: Any) -> Thread:  # noqa: ANN401
        """Do so meanwhile, once there is a job."""
        thread = Thread(target=self.do_next, args=(stdout, exit_code), kwargs=more)
        thread.start()
        return thread

    def close(self) -> None:
        """Close its connections."""
        self._http.close()


def _bearer(job: Mapping[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {job['token']}"}
