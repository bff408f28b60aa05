"""Objectives: what training minimises, in nats per example.

- elbo: ELBO, IWAE, DReG, MAP
- aggregate: MMD and total correlation
- adversarial: a discriminator beside another objective
- hidden_cells: posteriors of rows with missing cells
- proposal_bound: the fit of a proposal for importance sampling
- random_orders: the likelihood of a chain of columns
- hybrid: latents of both the posterior and the prior
- spectral: spectral regularisation
- schedules: weights that change with the step
"""
