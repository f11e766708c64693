"""The door of HTTP: routes, bodies, tokens in headers, problems, OpenAPI. What it means is the desk's."""
