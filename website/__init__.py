"""The documentation site: `make docs-site` builds it from docs/ into build/site.

- pages: run the Python blocks of a page, and show what they print and draw
- reference: pages made of docstrings, of the help of the commands and of the error codes
- build: put the pages together and build the site
- doctests: examples of docstrings as blocks of code
- notebooks: the guides as Jupyter notebooks
- notebook_data/: the small data that the notebooks begin with

`zensical.toml` is the configuration of the site. `package.json` names what its pages need in the
browser: KaTeX for the formulas, and a part of the search. `assets/` has our own script and style.
"""
