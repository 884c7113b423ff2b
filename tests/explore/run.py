"""`make explore`: explores all settings, and prints what it found."""

from __future__ import annotations

import sys

from ra_gateway.ra.settings import CertConf, Unconfirmed
from tests.explore.explorer import Explorer
from tests.explore.sides import Setting, Sides
from tests.support.pki import make_operator_pki, make_vendor_pki

if __name__ == "__main__":
    n=int(sys.argv[1]); most=int(sys.argv[2])
    v,o=make_vendor_pki(),make_operator_pki()
    for name,c,u,r,p in [("fwd replay",CertConf.forward,Unconfirmed.revoke,True,0),("fwd norep",CertConf.forward,Unconfirmed.revoke,False,0),("local replay",CertConf.local,Unconfirmed.revoke,True,0),("local norep",CertConf.local,Unconfirmed.revoke,False,0),("fwd replay wait",CertConf.forward,Unconfirmed.revoke,True,2.0)]:
        if len(sys.argv)>3 and sys.argv[3] not in name: continue
        f=Explorer(Sides(Setting(name,c,u,r,n,p),v,o)).explore(most)
        print(name, f.worlds,f.moves,f.depth,f.ends,round(f.seconds,1),f.complete,f.runs,dict(f.states),flush=True)
        for k,w in f.broken.items():
            print("BROKEN",k)
            for x in w: print("    ",x)
