"""Tokens and signed statements: claims to text and back (RFC 7519, in the manner of RFC 8725).

Every token is signed with Ed25519 under one `alg`, has a `typ` of its own, the signer's thumbprint as `kid`, and an
`aud` that is compared exactly; its identity is its `jti`, its meaning the decoded claims, never its bytes.

From below: `strict` (JSON) · `jwk` (keys) · `jws` (the envelope) · `forms` (forms of claims) · `issued` and
`statements` (the kinds of claims) · `reading` (what is checked, in which order). Import from here.

All of it is pure: keys and times are arguments. Key files are `gnexec.keys`; scopes, leases and verdicts are judged
by those who call.
"""

from __future__ import annotations

from gnexec.tokens.forms import MAX_JOBS, Claims, Confirmation, claims_digest
from gnexec.tokens.issued import LONGEST_S, AccessClaims, EnrolmentClaims, JobClaims, Scope, read_scope, write_scope
from gnexec.tokens.jwk import export_set, import_jwk, import_set, kid_of, public_jwk, public_key, thumbprint
from gnexec.tokens.jws import ALG
from gnexec.tokens.reading import (
    CLOCK_SKEW_S,
    Keys,
    ProvenKey,
    check_times,
    read_access_token,
    read_enrolment_proof,
    read_enrolment_token,
    read_job_statement,
    read_job_token,
    read_result_statement,
    require_scope,
    sign,
)
from gnexec.tokens.statements import (
    LIMITS,
    Environment,
    JobspecClaims,
    ProofClaims,
    Result,
    ResultClaims,
    Usage,
    check_outcome,
)

__all__ = [
    "ALG",
    "CLOCK_SKEW_S",
    "LIMITS",
    "LONGEST_S",
    "MAX_JOBS",
    "AccessClaims",
    "Claims",
    "Confirmation",
    "EnrolmentClaims",
    "Environment",
    "JobClaims",
    "JobspecClaims",
    "Keys",
    "ProofClaims",
    "ProvenKey",
    "Result",
    "ResultClaims",
    "Scope",
    "Usage",
    "check_outcome",
    "check_times",
    "claims_digest",
    "export_set",
    "import_jwk",
    "import_set",
    "kid_of",
    "public_jwk",
    "public_key",
    "read_access_token",
    "read_enrolment_proof",
    "read_enrolment_token",
    "read_job_statement",
    "read_job_token",
    "read_result_statement",
    "read_scope",
    "require_scope",
    "sign",
    "thumbprint",
    "write_scope",
]
