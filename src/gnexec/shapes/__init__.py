"""The shapes of requests and replies over HTTP: one place for server, client, worker and OpenAPI.

Requests are strict: an unknown field is an error that names it. Replies may gain fields, so readers must let unknown
ones pass. Times are milliseconds since 1970 unless the name says otherwise; digests are SHA-256 in hexadecimal.

What the values mean is decided elsewhere (`gnexec.core`); here is only their form.
"""

from __future__ import annotations

from gnexec.shapes.forms import (
    MAX_BATCH,
    MAX_SUBMIT,
    Count,
    Digest,
    ReplyBody,
    RequestBody,
)
from gnexec.shapes.jobs import (
    AttemptsView,
    AttemptView,
    EtaView,
    ExplainView,
    FileView,
    JobBody,
    JobView,
    ManyJobs,
    ManyJobViews,
    ReceiptsView,
    ReceiptView,
    ResultView,
    job_links,
)
from gnexec.shapes.server import (
    HealthView,
    HeyView,
    LogKeysView,
    LogKeyView,
    PayloadLine,
    Problem,
    ProblemKind,
)
from gnexec.shapes.work import (
    EnrolBody,
    EnrolReply,
    InlineFile,
    JobWork,
    ManyJobWork,
    ManyResultsBody,
    ManyVerdicts,
    ObstacleView,
    ResultBody,
    StatusBody,
    StatusReply,
    UsageBody,
    VerdictView,
    WhyView,
)

__all__ = [
    "MAX_BATCH",
    "MAX_SUBMIT",
    "AttemptView",
    "AttemptsView",
    "Count",
    "Digest",
    "EnrolBody",
    "EnrolReply",
    "EtaView",
    "ExplainView",
    "FileView",
    "HealthView",
    "HeyView",
    "InlineFile",
    "JobBody",
    "JobView",
    "JobWork",
    "LogKeyView",
    "LogKeysView",
    "ManyJobViews",
    "ManyJobWork",
    "ManyJobs",
    "ManyResultsBody",
    "ManyVerdicts",
    "ObstacleView",
    "PayloadLine",
    "Problem",
    "ProblemKind",
    "ReceiptView",
    "ReceiptsView",
    "ReplyBody",
    "RequestBody",
    "ResultBody",
    "ResultView",
    "StatusBody",
    "StatusReply",
    "UsageBody",
    "VerdictView",
    "WhyView",
    "job_links",
]
