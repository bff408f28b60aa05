"""Faces of a model in a browser or over HTTP; each knows the library by its public face only.

- server/: `lowerbound serve`, scores and more over HTTP
"""
