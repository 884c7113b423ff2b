"""The bundled certification authority: a CMP responder behind the CA port, with no private door to the RA.

`core` answers messages, `issuer` makes certificates, `profiles` says what they may hold, `ledger` remembers
what was issued, `material` creates and loads keys and certificates.
"""
