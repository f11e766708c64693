"""The transparency log's mathematics and formats, pure: RFC 6962 trees, C2SP texts that foreign tools read unchanged.

From the bottom up: `merkle` (hashes), `tiles` (the growing tree), `proof`, `note` (signatures), `checkpoint`,
`receipt`.
"""
