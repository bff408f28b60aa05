"""Latent variables: their posteriors, priors and flows.

- posteriors: rules that make q(z | h, f, p)
- priors: p(z | h)
- importance: proposals r(z | x) for importance sampling
- mixture_priors: VampPrior and exemplars
- codebooks: vector quantisation
- code_priors: priors over grids of codes
- flows: invertible maps with a cheap log determinant
"""
