"""The shipped commands and the shipped image as a broker's client, on pytest-celery: one suite, two vendors.

`processes` runs everywhere and with every other test; `containers` runs the project's image and needs Docker
(`make smoke`).
"""
