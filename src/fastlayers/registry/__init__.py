"""Registries: references, credentials, the connection with its retries, pushing and pulling."""
