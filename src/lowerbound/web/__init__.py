"""Faces of a model in a browser or over HTTP; each knows the library by its public face only.

- report/: one page about a model and rows, to read, print or send; works offline
- explore/: `lowerbound explore`, a page on this machine about millions of rows
- values: what rows can be coloured by and named with
- colours.css: the colours of all pages, light and dark
- signals: signals that a server handles in its event loop
- server/: `lowerbound serve`, scores and more over HTTP
"""
