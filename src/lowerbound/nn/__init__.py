"""The mathematics: parts to compose a variational autoencoder from.

- model: levels of latents, and the one walk over them
- trace: how z is drawn, and what was drawn
- distributions/: likelihoods and their families
- latents/: posteriors, priors, flows, codebooks
- objectives/: what training minimises
- networks/: modules that know nothing of probability
- partial: walks that leave out a part
"""
