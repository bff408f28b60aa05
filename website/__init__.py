"""The documentation site: `make docs-site` builds it from docs/ into build/site.

- pages: run the Python blocks of a page, and show what they print and draw
- reference: pages made of docstrings, of the help of the commands and of the error codes
- build: put the pages together and build the site
- doctests: examples of docstrings as blocks of code
- notebooks: the guides as Jupyter notebooks
- example_data: the small data that the notebooks of the guides begin with

`zensical.toml` is the configuration of the site, `package.json` names the KaTeX that sets the
formulas, and `assets/` holds its start-up script and the style of figures.
"""
