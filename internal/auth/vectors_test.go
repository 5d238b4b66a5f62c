package auth

// The passwords of the vectors. The long one has octets over 127, and crosses
// the block lengths of the digests and bcrypt's 72 octets.
const (
	shortPassword = "secret"
	longPassword  = "pässwörd €uro + a rather long tail, over sixty-four bytes of it, to cross blocks"
)

type vector struct{ name, stored, password string }

// dovecotVectors were written by doveadm pw of Dovecot 2.3.19.1 (Debian 12).
func dovecotVectors() []vector {
	return []vector{
		{"plain", "{PLAIN}secret", shortPassword},
		{"cleartext", "{CLEARTEXT}secret", shortPassword},
		{"clear", "{CLEAR}secret", shortPassword},
		{"plain-md5", "{PLAIN-MD5}5ebe2294ecd0e0f08eab7690d2a6ee69", shortPassword},
		{"plain-md5.b64", "{PLAIN-MD5.B64}Xr4ilOzQ4PCOq3aQ0qbuaQ==", shortPassword},
		{"ldap-md5", "{LDAP-MD5}Xr4ilOzQ4PCOq3aQ0qbuaQ==", shortPassword},
		{"ldap-md5.hex", "{LDAP-MD5.HEX}5ebe2294ecd0e0f08eab7690d2a6ee69", shortPassword},
		{"sha", "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=", shortPassword},
		{"sha1", "{SHA1}5en6G6MezRroT3XKqkdPOmY/BfQ=", shortPassword},
		{"sha256", "{SHA256}K7gNU3sdo+OL0wNhqoVWhr3g6s1xYv72ol/pe/Unols=", shortPassword},
		{"sha256.hex", "{SHA256.HEX}2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b", shortPassword},
		{"sha512", "{SHA512}vSsar3708Jvp9Szi2NWZZ02Bqp1qRCFpbcTZPdBhnWgs5WtNZKnvCXdhztmeD2cmW192CF5bDufKRpayrW/isg==", shortPassword},
		{"sha512.b64", "{SHA512.B64}vSsar3708Jvp9Szi2NWZZ02Bqp1qRCFpbcTZPdBhnWgs5WtNZKnvCXdhztmeD2cmW192CF5bDufKRpayrW/isg==", shortPassword},
		{"ssha", "{SSHA}arv4KG9c5xM54MtO6TXdZPhFaU4lWJOb", shortPassword},
		{"ssha.hex", "{SSHA.HEX}57093d78d1e27e5842e4d3a6a6f55b8fccb2dcaf71e24fdd", shortPassword},
		{"ssha256", "{SSHA256}Fv3MJXK4fCmSP69q05/Ee0AZACOPF9xAyuZ4WIyjhVgf5Kpl", shortPassword},
		{"ssha256.b64", "{SSHA256.B64}rqG5SeZikvOsc0WalJkQp6StZbLPVj4KJ9P5XWbmaIf0KtfF", shortPassword},
		{"ssha512", "{SSHA512}icSl5MA7CKRAOrofZ0yjULSnT/15OvM2bC8C61y6fTRUdWjiZBXiIJ/kAyX6E5gzbrjOCqTodLtcv7/tKNmaIdTNR1Q=", shortPassword},
		{"ssha512.hex", "{SSHA512.HEX}ea0c4442e4634bb9e0cb27c436f757ace39e38ffd01b09feebaf929eef1f275b4238dcfd60c4c4904d0a7e81e9ab15b510b555a55a7e8df0f6e66fdabb0c78e5d3a55fab", shortPassword},
		{"ssha512 long", "{SSHA512}sQMYzorS5hmuBGxonM/4i5C/QAvuX+ZNRLjaoYG9XNvsHX+dipkcRaWqf/ugW5mgTDzU/m+8HJhdirusJ4fbTMCbmGc=", longPassword},
		{"smd5", "{SMD5}2eCOgnc++rNMw/aT5G4vUVrgv78=", shortPassword},
		{"smd5.hex", "{SMD5.HEX}a5e9bfd146eda68d05dbcda007cdf3c1e2cf6b5e", shortPassword},
		{"smd5 long", "{SMD5}gcPRVUSpeuPr+lEIJ91lfoyd90c=", longPassword},
		{"md5-crypt", "{MD5-CRYPT}$1$1Xt4GetA$H5VCo/9GarzI/MvHv2TRY.", shortPassword},
		{"md5-crypt long", "{MD5-CRYPT}$1$oqCTEmVa$q4iBLhuKyy7D1iGttcFu40", longPassword},
		{"md5", "{MD5}$1$HjmPiPz1$gIbsoP17F93PftV75q0od1", shortPassword},
		{"crypt", "{CRYPT}$2y$05$MyVuOm4W/yV32OAIJi.ntOaXFPzAkw2r8clqZB4SUZ/I4vrIWaaS6", shortPassword},
		{"crypt.b64", "{CRYPT.B64}JDJ5JDA1JDhUNHUzcFV0NzNkdm82b0pmNGlRUHVHcVhsd3d3WW1wUEhKQ2EwdS9MU0pGRzJncU5tb255", shortPassword},
		{"plain.b64", "{PLAIN.B64}c2VjcmV0", shortPassword},
		{"plain.hex", "{PLAIN.HEX}736563726574", shortPassword},
		{"sha256-crypt", "{SHA256-CRYPT}$5$2UeyaqOijPjpkV4b$Fu1kGmnaVpAt93f7bJEHNOigVD1I6RmvNBSOJrG3Zd9", shortPassword},
		{"sha256-crypt rounds", "{SHA256-CRYPT}$5$rounds=1000$zmSke39os.R2uiPZ$g723lZU4RIud63nAP4UIpSIAMhf8CsHgATorK0ripu3", shortPassword},
		{"sha256-crypt long", "{SHA256-CRYPT}$5$FRWJLG0DGwjKE.Oa$IMhJfUdPhEpfpIeW.NVLu7V90FhL7lvXaec2KVK/aF3", longPassword},
		{"sha512-crypt", "{SHA512-CRYPT}$6$o789cB7Wx8GrxRh3$Le.cHzAy/EQ5uVxQaBl9w7h5DwxUkWgH2EdsBm..GIvt/n4PN1cWuYgoy9BqfdjInmhkiYIM0J8MRlGzMFh.j0", shortPassword},
		{"sha512-crypt rounds", "{SHA512-CRYPT}$6$rounds=30000$F9HwYE9igeBqfVWL$80.lL39SukA7a2MxgaJw4TQKduSoLFAr6EVE3s5sYK6JbJfvitZmdKvadyNUFnv.XUWHJLEEr/XtdvfZygo2U0", shortPassword},
		{"sha512-crypt long", "{SHA512-CRYPT}$6$5Q5nWkbO0IcFqbcm$Ac7EUsibhuKHER3.C/IYu3mT.ZjADeMpDBqh1.CJBqqAtDY.QNrYTk1WQOOMOokSCSSup4fU2Xzic9jVibc1G/", longPassword},
		{"sha512-crypt.hex", "{SHA512-CRYPT.HEX}2436244262574c654b494c6a616935366b4344244f396b2f4a6e4f6c53516d7659706c64546c792f7436486e7966516f4e655232456562436c7a4133676e3142786b7a4958353050654f7a574d63683335464e39575170523656546639646153776756482e6879477930", shortPassword},
		{"blf-crypt", "{BLF-CRYPT}$2y$05$pK0Lc9c./mM/ygwR84oP6u6sZrfun1bexqxw4YPj7euPAMWMC7dyi", shortPassword},
		{"blf-crypt long", "{BLF-CRYPT}$2y$05$epzxMKf4ZhRBozKlT16.nekzVUp30fIJcypAYK2zvU7hGLfTk7gtK", longPassword},
		{"pbkdf2", "{PBKDF2}$1$p3Yh5BGG5u9klbT5$5000$ef07540bf13803f31136d7c507911fa9deb2c075", shortPassword},
		{"pbkdf2 rounds", "{PBKDF2}$1$EMpn2a8CE2GRgc6.$20000$4dc0853969542add43705e7d421e5992adcbde06", shortPassword},
		{"pbkdf2 long", "{PBKDF2}$1$xqvg99hGx344UcEJ$5000$d081530dcff07f5ac6d9d6b4ac1264794aa57128", longPassword},
		{"scram-sha-1", "{SCRAM-SHA-1}4096,laUPgceTao3PT8zAhST3zg==,0fh3EZewdZUEEz0jtH1cGRAQjyE=,M1SngaWdux3z1x7VMvTMc4Rn+KQ=", shortPassword},
		{"scram-sha-1.b64", "{SCRAM-SHA-1.B64}NDA5NixPZlRMK1hGalkwVHE3eWNwZDk1enJRPT0sdjQya0JKaWd6amNMRmRGc3VsQkkrNURuVVBBPSxseTlmY1QzMmc5SXZMREVTK3dEOUtsV2ovc0E9", shortPassword},
		{"scram-sha-256", "{SCRAM-SHA-256}4096,B8O591ZJ3VZVT3D+xYY9kg==,Tmfg7O+oc6KCWzYv0tkgHURTF+1l0xYrVWuDVOk6aXI=,RjedrXpECNdBi2Xz4GGW/rLWMdzs80ofbUn+WRsD+og=", shortPassword},
		{"scram-sha-256 long", "{SCRAM-SHA-256}4096,OGPEinm/xu8jUV2x55DF0Q==,ddbZY1G85xTqDaYlPG4o0m+8q3vo9TKvVWl+4egtwUA=,hUMx5cBF2kGFgUUdu1d6f/1bSzDdofnQKU2GdRbZ0XU=", longPassword},
		{"argon2i", "{ARGON2I}$argon2i$v=19$m=32768,t=4,p=1$LNFfIcTNzBcEMKVEdu2gzw$RK0B4SJhthpbM/ipxlIX2YLs/a/rzqL7QY5TOPrWCC4", shortPassword},
		{"argon2id", "{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=1$pEpw0L+kvnlDlbxDsSqCUg$zXCP1Ryok44viWRFMtWRA4Ut8NZKsvQmqT4cU4lwUGk", shortPassword},
		{"argon2id long", "{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=1$uOn64Gk1yWtr4WNqa9fn7A$DJ8A9Ksfbu+j7q5qGrDVUsSXP8x5TZ96OAAbC/1Dn/w", longPassword},
	}
}

// cryptVectors were written by crypt(3) of libxcrypt (Debian 12).
func cryptVectors() []vector {
	return []vector{
		{"yescrypt", "$y$j9T$abcdefgh$IUWJt2doU4Kf6E/JP1UkAT3S5O3Q7SSA8SJirXIlEu9", shortPassword},
		{"yescrypt small", "$y$j75$2BbT3O7MQgKy9gJwmQ0sW1$40F19G3XmY9z1.oXful0.CuRChAa1mrQIojGFDTNFn7", shortPassword},
		{"yescrypt long", "$y$j75$2BbT3O7MQgKy9gJwmQ0sW1$JdtZOtD63ZnkhGCu/byGA.EEg/Q5bEZVrROnZ9v2yA2", longPassword},
		{"yescrypt braces", "{CRYPT}$y$j75$2BbT3O7MQgKy9gJwmQ0sW1$40F19G3XmY9z1.oXful0.CuRChAa1mrQIojGFDTNFn7", shortPassword},
		{"2a", "$2a$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a", shortPassword},
		{"2b", "$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW", shortPassword},
		{"2y", "$2y$06$abcdefghijklmnopqrstuuxLa0AkDDSrQ9VwNnETzOsObiucpMYgC", shortPassword},
		{"2a long", "$2a$05$abcdefghijklmnopqrstuuAZBZrd2UhUo3hEDIZeYtw3qQal5BZJ.", longPassword},
		{"2b long", "$2b$04$abcdefghijklmnopqrstuukgF/66SAA6CqY4K2H30z4uB1dwlwS52", longPassword},
		{"md5 short salt", "$1$ab$dslkcXxVH.x8LwW1W/oAB/", shortPassword},
		{"md5 short salt long", "$1$ab$JdkhQt7rGLsaD2TLC1rxJ1", longPassword},
		{"sha256 rounds", "$5$rounds=1234$saltsaltsaltsalt$c9DfFy1lrxPaOvlu1olQZskmO6Pubr3sNeFXDoMVlW7", shortPassword},
		{"sha256 rounds long", "$5$rounds=1234$saltsaltsaltsalt$2mURZvFl5I6EUQQH265/MUubYDzdwH.OEMKR5HsTTH.", longPassword},
		{"sha512 short salt", "$6$x$mQUKLCQR1S846TztirS7Ejo4KyTtZWzcyuF2/43jqoJTDZXRb8L.bXBNxX9GCZhKdADbfqEnGZyv89igC73DL/", shortPassword},
		{"sha512 short salt long", "$6$x$Q8K2ceBq2xc.TigfBnE.V33qA318XSB/NFD2PEFMVW4F6byuhaM87n0LFYbuXoYDnjkDX96QbaEE.yNuMvI8d0", longPassword},
	}
}

// variantVectors are vectors above, written in other ways that exist.
func variantVectors() []vector {
	return []vector{
		{"lower case scheme", "{ssha.hex}57093d78d1e27e5842e4d3a6a6f55b8fccb2dcaf71e24fdd", shortPassword},
		{"hex told by its length", "{SHA}e5e9fa1ba31ecd1ae84f75caaa474f3a663f05f4", shortPassword},
		{"base64 told by its length", "{PLAIN-MD5}Xr4ilOzQ4PCOq3aQ0qbuaQ==", shortPassword},
		{"no padding", "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ", shortPassword},
		{"base64 suffix", "{SHA.base64}5en6G6MezRroT3XKqkdPOmY/BfQ=", shortPassword},
		{"MD5 of RFC 2307", "{MD5}Xr4ilOzQ4PCOq3aQ0qbuaQ==", shortPassword},
		{"bare argon2i", "$argon2i$v=19$m=32768,t=4,p=1$LNFfIcTNzBcEMKVEdu2gzw$RK0B4SJhthpbM/ipxlIX2YLs/a/rzqL7QY5TOPrWCC4", shortPassword},
		{"plain with braces", "{PLAIN}{SHA}x$", "{SHA}x$"},
	}
}
