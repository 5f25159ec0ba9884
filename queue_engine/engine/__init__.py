"""The use cases of the engine, without HTTP. The API, a dialect and a console call them; they call nothing above them.

A use case takes the Principal that makes the request, and parsed values. It waits for the store for a bounded time,
returns values of the domain and raises the errors of `domain/errors.py`.
"""
