"""Object identifiers, each of them once."""

from __future__ import annotations

from typing import Final


class OID:
    """Object identifiers in dotted form, as extensions, attributes and infoTypes are keyed by everywhere here.

    Names are those of the ASN.1 modules without the arc before them: id-kp-cmcRA is `cmcRA`. The ObjectIdentifiers of
    `cryptography` (`x509.NameOID` and its like) are for what is handed to its own builders, and for nothing else.
    """

    # RFC 5280 appendix A.1, RFC 4519 2 (id-at; userId and domainComponent are of the pilot directory)
    commonName: Final = "2.5.4.3"
    surname: Final = "2.5.4.4"
    serialNumber: Final = "2.5.4.5"
    countryName: Final = "2.5.4.6"
    localityName: Final = "2.5.4.7"
    stateOrProvinceName: Final = "2.5.4.8"
    streetAddress: Final = "2.5.4.9"
    organizationName: Final = "2.5.4.10"
    organizationalUnitName: Final = "2.5.4.11"
    title: Final = "2.5.4.12"
    description: Final = "2.5.4.13"
    businessCategory: Final = "2.5.4.15"
    postalCode: Final = "2.5.4.17"
    postOfficeBox: Final = "2.5.4.18"
    physicalDeliveryOfficeName: Final = "2.5.4.19"
    telephoneNumber: Final = "2.5.4.20"
    name: Final = "2.5.4.41"
    givenName: Final = "2.5.4.42"
    initials: Final = "2.5.4.43"
    generationQualifier: Final = "2.5.4.44"
    dnQualifier: Final = "2.5.4.46"
    pseudonym: Final = "2.5.4.65"
    organizationIdentifier: Final = "2.5.4.97"
    userId: Final = "0.9.2342.19200300.100.1.1"
    domainComponent: Final = "0.9.2342.19200300.100.1.25"
    unstructuredName: Final = "1.2.840.113549.1.9.2"
    unstructuredAddress: Final = "1.2.840.113549.1.9.8"
    jurisdictionLocalityName: Final = "1.3.6.1.4.1.311.60.2.1.1"
    jurisdictionStateOrProvinceName: Final = "1.3.6.1.4.1.311.60.2.1.2"
    jurisdictionCountryName: Final = "1.3.6.1.4.1.311.60.2.1.3"

    # RFC 5280 4.2 and 5 (id-ce, id-pe, id-ad), RFC 9310 3
    subjectKeyIdentifier: Final = "2.5.29.14"
    keyUsage: Final = "2.5.29.15"
    subjectAltName: Final = "2.5.29.17"
    basicConstraints: Final = "2.5.29.19"
    cRLNumber: Final = "2.5.29.20"
    reasonCode: Final = "2.5.29.21"
    invalidityDate: Final = "2.5.29.24"
    deltaCRLIndicator: Final = "2.5.29.27"
    issuingDistributionPoint: Final = "2.5.29.28"
    certificateIssuer: Final = "2.5.29.29"
    nameConstraints: Final = "2.5.29.30"
    cRLDistributionPoints: Final = "2.5.29.31"
    certificatePolicies: Final = "2.5.29.32"
    policyMappings: Final = "2.5.29.33"
    authorityKeyIdentifier: Final = "2.5.29.35"
    policyConstraints: Final = "2.5.29.36"
    extKeyUsage: Final = "2.5.29.37"
    freshestCRL: Final = "2.5.29.46"
    inhibitAnyPolicy: Final = "2.5.29.54"
    authorityInfoAccess: Final = "1.3.6.1.5.5.7.1.1"
    nfTypes: Final = "1.3.6.1.5.5.7.1.34"
    ocsp: Final = "1.3.6.1.5.5.7.48.1"
    caIssuers: Final = "1.3.6.1.5.5.7.48.2"

    # RFC 6960 4 (id-pkix-ocsp)
    ocspBasic: Final = "1.3.6.1.5.5.7.48.1.1"
    ocspNonce: Final = "1.3.6.1.5.5.7.48.1.2"
    ocspNoCheck: Final = "1.3.6.1.5.5.7.48.1.5"

    # RFC 5280 4.2.1.12, RFC 4945 5.1.3.12, RFC 6402 2.10, RFC 9810 4.5 (id-kp; iKEIntermediate is of the IPsec drafts)
    anyExtendedKeyUsage: Final = "2.5.29.37.0"
    serverAuth: Final = "1.3.6.1.5.5.7.3.1"
    clientAuth: Final = "1.3.6.1.5.5.7.3.2"
    ipsecEndSystem: Final = "1.3.6.1.5.5.7.3.5"
    ocspSigning: Final = "1.3.6.1.5.5.7.3.9"
    ipsecIKE: Final = "1.3.6.1.5.5.7.3.17"
    cmcCA: Final = "1.3.6.1.5.5.7.3.27"
    cmcRA: Final = "1.3.6.1.5.5.7.3.28"
    cmcArchive: Final = "1.3.6.1.5.5.7.3.29"
    cmKGA: Final = "1.3.6.1.5.5.7.3.32"
    jwt: Final = "1.3.6.1.5.5.7.3.37"
    iKEIntermediate: Final = "1.3.6.1.5.5.8.2.2"

    # RFC 9810 5.1.1 and 5.3.19 (id-it)
    caProtEncCert: Final = "1.3.6.1.5.5.7.4.1"
    signKeyPairTypes: Final = "1.3.6.1.5.5.7.4.2"
    encKeyPairTypes: Final = "1.3.6.1.5.5.7.4.3"
    preferredSymmAlg: Final = "1.3.6.1.5.5.7.4.4"
    caKeyUpdateInfo: Final = "1.3.6.1.5.5.7.4.5"
    currentCRL: Final = "1.3.6.1.5.5.7.4.6"
    unsupportedOIDs: Final = "1.3.6.1.5.5.7.4.7"
    keyPairParamReq: Final = "1.3.6.1.5.5.7.4.10"
    keyPairParamRep: Final = "1.3.6.1.5.5.7.4.11"
    revPassphrase: Final = "1.3.6.1.5.5.7.4.12"
    implicitConfirm: Final = "1.3.6.1.5.5.7.4.13"
    confirmWaitTime: Final = "1.3.6.1.5.5.7.4.14"
    origPKIMessage: Final = "1.3.6.1.5.5.7.4.15"
    suppLangTags: Final = "1.3.6.1.5.5.7.4.16"
    caCerts: Final = "1.3.6.1.5.5.7.4.17"
    rootCaKeyUpdate: Final = "1.3.6.1.5.5.7.4.18"
    certReqTemplate: Final = "1.3.6.1.5.5.7.4.19"
    rootCaCert: Final = "1.3.6.1.5.5.7.4.20"
    certProfile: Final = "1.3.6.1.5.5.7.4.21"
    crlStatusList: Final = "1.3.6.1.5.5.7.4.22"
    crls: Final = "1.3.6.1.5.5.7.4.23"
    KemCiphertextInfo: Final = "1.3.6.1.5.5.7.4.24"

    # RFC 4211 6 and 7, RFC 9810 5.3.19.16 (id-regCtrl, id-regInfo)
    regToken: Final = "1.3.6.1.5.5.7.5.1.1"
    authenticator: Final = "1.3.6.1.5.5.7.5.1.2"
    pkiPublicationInfo: Final = "1.3.6.1.5.5.7.5.1.3"
    pkiArchiveOptions: Final = "1.3.6.1.5.5.7.5.1.4"
    oldCertID: Final = "1.3.6.1.5.5.7.5.1.5"
    protocolEncrKey: Final = "1.3.6.1.5.5.7.5.1.6"
    altCertTemplate: Final = "1.3.6.1.5.5.7.5.1.7"
    algId: Final = "1.3.6.1.5.5.7.5.1.11"
    rsaKeyLen: Final = "1.3.6.1.5.5.7.5.1.12"
    utf8Pairs: Final = "1.3.6.1.5.5.7.5.2.1"
    regInfoCertReq: Final = "1.3.6.1.5.5.7.5.2.2"

    # RFC 9810 5.1.3, RFC 8018 A.5 (protection with a MAC)
    passwordBasedMac: Final = "1.2.840.113533.7.66.13"
    kemBasedMac: Final = "1.2.840.113533.7.66.16"
    dhBasedMac: Final = "1.2.840.113533.7.66.30"
    pbmac1: Final = "1.2.840.113549.1.5.14"

    # RFC 2985 5, RFC 2986 4 (pkcs-9); Microsoft's name for the same request
    emailAddress: Final = "1.2.840.113549.1.9.1"
    contentType: Final = "1.2.840.113549.1.9.3"
    messageDigest: Final = "1.2.840.113549.1.9.4"
    extensionRequest: Final = "1.2.840.113549.1.9.14"
    msExtensionRequest: Final = "1.3.6.1.4.1.311.2.1.14"

    # RFC 5652 4 and 5, RFC 5958 5, RFC 9629 3 (CMS)
    data: Final = "1.2.840.113549.1.7.1"
    signedData: Final = "1.2.840.113549.1.7.2"
    keyPackage: Final = "2.16.840.1.101.2.1.2.78.5"
    oriKEM: Final = "1.2.840.113549.1.9.16.13.3"

    # RFC 3279 2.1, RFC 5754 2, RFC 8702 2 (hashes)
    md5: Final = "1.2.840.113549.2.5"
    sha1: Final = "1.3.14.3.2.26"
    sha256: Final = "2.16.840.1.101.3.4.2.1"
    sha384: Final = "2.16.840.1.101.3.4.2.2"
    sha512: Final = "2.16.840.1.101.3.4.2.3"
    shake256: Final = "2.16.840.1.101.3.4.2.12"
    shake256Len: Final = "2.16.840.1.101.3.4.2.18"

    # RFC 9481 6, RFC 8018 appendix B, RFC 8619 2 (HMAC, derivation of keys)
    hmacSHA1: Final = "1.3.6.1.5.5.8.1.2"
    hmacWithSHA1: Final = "1.2.840.113549.2.7"
    hmacWithSHA256: Final = "1.2.840.113549.2.9"
    hmacWithSHA384: Final = "1.2.840.113549.2.10"
    hmacWithSHA512: Final = "1.2.840.113549.2.11"
    pbkdf2: Final = "1.2.840.113549.1.5.12"
    hkdfWithSHA256: Final = "1.2.840.113549.1.9.16.3.28"

    # RFC 3565 4 (AES)
    aes128CBC: Final = "2.16.840.1.101.3.4.1.2"
    aes128Wrap: Final = "2.16.840.1.101.3.4.1.5"
    aes192CBC: Final = "2.16.840.1.101.3.4.1.22"
    aes192Wrap: Final = "2.16.840.1.101.3.4.1.25"
    aes256CBC: Final = "2.16.840.1.101.3.4.1.42"
    aes256Wrap: Final = "2.16.840.1.101.3.4.1.45"

    # RFC 8017 appendix C (RSA)
    rsaEncryption: Final = "1.2.840.113549.1.1.1"
    md5WithRSAEncryption: Final = "1.2.840.113549.1.1.4"
    sha1WithRSAEncryption: Final = "1.2.840.113549.1.1.5"
    rsaesOAEP: Final = "1.2.840.113549.1.1.7"
    mgf1: Final = "1.2.840.113549.1.1.8"
    rsassaPSS: Final = "1.2.840.113549.1.1.10"
    sha256WithRSAEncryption: Final = "1.2.840.113549.1.1.11"
    sha384WithRSAEncryption: Final = "1.2.840.113549.1.1.12"
    sha512WithRSAEncryption: Final = "1.2.840.113549.1.1.13"

    # RFC 5480 2.1, RFC 5758 3.2, RFC 5753 7.1.4 (elliptic curves)
    ecPublicKey: Final = "1.2.840.10045.2.1"
    secp256r1: Final = "1.2.840.10045.3.1.7"
    secp384r1: Final = "1.3.132.0.34"
    secp521r1: Final = "1.3.132.0.35"
    ecdsaWithSHA1: Final = "1.2.840.10045.4.1"
    ecdsaWithSHA256: Final = "1.2.840.10045.4.3.2"
    ecdsaWithSHA384: Final = "1.2.840.10045.4.3.3"
    ecdsaWithSHA512: Final = "1.2.840.10045.4.3.4"
    ecdhWithSHA256KDF: Final = "1.3.132.1.11.1"
    ecdhWithSHA384KDF: Final = "1.3.132.1.11.2"
    ecdhWithSHA512KDF: Final = "1.3.132.1.11.3"

    # RFC 8410 3, RFC 9881 2, RFC 9935 3 (EdDSA, ML-DSA, ML-KEM)
    ed25519: Final = "1.3.101.112"
    ed448: Final = "1.3.101.113"
    mlDSA44: Final = "2.16.840.1.101.3.4.3.17"
    mlDSA65: Final = "2.16.840.1.101.3.4.3.18"
    mlDSA87: Final = "2.16.840.1.101.3.4.3.19"
    mlKEM768: Final = "2.16.840.1.101.3.4.4.2"
    mlKEM1024: Final = "2.16.840.1.101.3.4.4.3"
