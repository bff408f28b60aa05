"""Faces of a model in a browser or over HTTP; each knows the library by its public face only.

- report/: one page about a model and rows, to read, print or send; works offline
- server/: `lowerbound serve`, scores and more over HTTP
"""
