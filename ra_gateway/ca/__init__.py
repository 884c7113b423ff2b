"""The bundled certification authority: a CMP responder behind the CA port, with no private door to the RA.

`core` answers messages: `authentication` says who speaks, `authorization` who may ask for what, `certification` what
requests for certificates get, and `transaction` what a retransmission is. `issuer` makes certificates: `profiles`
says what they may hold, `tbs` plans what one says, `conformance` checks that, `lint` asks somebody else. `ledger`
remembers everything; `records` are its values. `crl`, `ocsp` and `status` publish. `keys`, `rollover` and
`ra_credential` make and change the CA's own keys and certificates (`hierarchy`), in `files` that are always whole.
"""
