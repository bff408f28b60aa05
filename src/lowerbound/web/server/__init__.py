"""`lowerbound serve`: a model over HTTP, hardened for machines that others can reach.

- settings: addresses and limits, checked before anything is loaded; needs no library of its own
- requests: a request's body, counted while it streams, as a table
- answers: results and errors as JSON, CSV or Arrow
- served: a loaded model with what clients need to know of it, replaced atomically
- compute: threads that compute, and micro-batches of concurrent requests
- routes: the API of version 1
- inference: the Open Inference Protocol, version 2
- pages: the description of the API, and its page for browsers
- guard: identity, limits, metrics and log of every request
- connections: limits on headers, and on the time that they take
- process: one process that serves
- workers: several processes on one address
- image: a folder from which a container image is built
"""
