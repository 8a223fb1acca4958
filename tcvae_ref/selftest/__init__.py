"""The package judged on a user's own machine: reference and kernels on fresh random cases, against ball arithmetic.

`draws` draws the cases, `estimators`, `densities` and `mixtures` judge them, `running` counts, `commands` is
`tcvae-ref selftest`. Bounds are those of the oracle (`tcvae_ref.oracle.tolerance`).
"""
