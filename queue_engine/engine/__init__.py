"""The use cases of the engine, without HTTP: what the API, a dialect or a console calls, and nothing below.

A use case takes the Principal in whose name it acts and values that are parsed, asks the store for a bounded time,
returns values of the domain and raises the errors of `domain/errors.py`.
"""
