"""The secure sum: the coordinator learns the total and no site's part of it (Bonawitz et al. 2017).

    site.py          a site's five answers          coordinator.py   a batch of sums
    keystore.py      what a site keeps on disk      collection.py    one sum, as it comes in
    roster.py        who may take part              agreement.py     what sites must agree on
    lanes.py, masks.py, shamir.py, wire.py          the parts these are made of

The argument for it, and its limits, are in docs/security/secure-sum.md.
"""
