"""The empirical privacy audit: attacks a site runs on its own mechanism and data.

    one_run.py     a lower bound on epsilon that no correct mechanism exceeds
    lira.py        who was in the training data?             heads.py     shadow heads in one batch
    inversion.py   what does an update say of a record?      gaussian.py  epsilon, delta and mu
    clipping.py    does one enormous unit change more than the clip?
    audit.py       all of them against a claim               report.py    figures, verdict, meanings
    release.py     how the site's own way out is handed in

An attack that succeeds finds a bug; one that fails proves nothing. The proof is the accountant's.
"""
