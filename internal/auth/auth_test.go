package auth

import (
	"context"
	"errors"
	"strings"
	"testing"
)

func cheap() HashParams { return HashParams{MemoryKiB: 64, Passes: 1, Lanes: 1} }

func TestVerifyVectors(t *testing.T) {
	for _, v := range append(append(dovecotVectors(), cryptVectors()...), variantVectors()...) {
		t.Run(v.name, func(t *testing.T) {
			if err := Supported(v.stored); err != nil {
				t.Fatalf("Supported: %v", err)
			}
			if ok, err := Verify(t.Context(), v.stored, v.password); err != nil || !ok {
				t.Errorf("right password: %v, %v", ok, err)
			}
			// The first octet, because bcrypt does not see the last of a long one.
			if ok, err := Verify(t.Context(), v.stored, "x"+v.password); err != nil || ok {
				t.Errorf("wrong password: %v, %v", ok, err)
			}
			if s, err := parse(v.stored); err != nil || s.memory() <= 0 {
				t.Errorf("memory is not known: %v", err)
			}
		})
	}
}

func TestHashRoundTrip(t *testing.T) {
	stored, err := Hash(longPassword)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(stored, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Errorf("hash is %q", stored)
	}
	if ok, err := Verify(t.Context(), stored, longPassword); err != nil || !ok {
		t.Errorf("Verify: %v, %v", ok, err)
	}
	if s, err := parse(stored); err != nil || s.memory() != 19456<<10 {
		t.Errorf("memory of %s: %v", stored, err)
	}
	again, err := Hash(longPassword)
	if err != nil || again == stored {
		t.Errorf("second hash equals the first (%v)", err)
	}
}

func TestHashRefuses(t *testing.T) {
	for _, password := range []string{"", "a\x00b", strings.Repeat("x", MaxPasswordBytes+1)} {
		if _, err := cheap().Hash(password); !errors.Is(err, ErrPassword) {
			t.Errorf("Hash of %d octets: %v", len(password), err)
		}
	}
	if _, err := (HashParams{MemoryKiB: 4, Passes: 1, Lanes: 1}).Hash("x"); !errors.Is(err, ErrMalformed) {
		t.Errorf("too little memory: %v", err)
	}
	if _, err := (HashParams{MemoryKiB: 1 << 20, Passes: 1, Lanes: 1}).Hash("x"); !errors.Is(err, ErrTooCostly) {
		t.Errorf("too much memory: %v", err)
	}
}

func TestVerifyUnacceptablePasswords(t *testing.T) {
	for _, password := range []string{"", "secret\x00", strings.Repeat("x", MaxPasswordBytes+1)} {
		if ok, err := Verify(t.Context(), "{PLAIN}"+password+"!", password); ok || err != nil {
			t.Errorf("%d octets: %v, %v", len(password), ok, err)
		}
	}
}

func TestVerifyContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Verify(ctx, "{PLAIN}secret", "secret"); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
}

func TestSupportedRefuses(t *testing.T) {
	const salt, key = "LNFfIcTNzBcEMKVEdu2gzw", "RK0B4SJhthpbM/ipxlIX2YLs/a/rzqL7QY5TOPrWCC4"
	sha256Key := strings.Repeat("a", 43)
	scramKeys := ",B8O591ZJ3VZVT3D+xYY9kg==,Tmfg7O+oc6KCWzYv0tkgHURTF+1l0xYrVWuDVOk6aXI=,RjedrXpECNdBi2Xz4GGW/rLWMdzs80ofbUn+WRsD+og="
	tests := []struct {
		stored string
		want   error
	}{
		{"", ErrUnknownScheme},
		{"secret", ErrUnknownScheme},
		{"{PLAIN", ErrUnknownScheme},
		{"{}x", ErrUnknownScheme},
		{"{NTLM}abc", ErrUnknownScheme},
		{"{CRAM-MD5}cd3ba7deaad6e5ca23448ba42e379747a9e0f7f1fbc00c8a81bbaac395731b56", ErrUnknownScheme},
		{"{CRYPT}MJ.tTjrQgJrK6", ErrUnknownScheme},
		{"{DES-CRYPT}MJ.tTjrQgJrK6", ErrUnknownScheme},
		{"{SHA.rot13}x", ErrUnknownScheme},
		{"$7$CU..../....abcdefgh$XWs9HxtpA2.6U5CDBBbcW.h3o9pYlC.MIIb8JqMgZx6", ErrUnknownScheme},
		{"$gy$j9T$abcdefgh$Fi3mUfLMwr2ZyDlmydp6rw5RwzYJnsb1LquZlQ2CYq0", ErrUnknownScheme},
		{"$2x$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a", ErrUnknownScheme},
		{"$argon2d$v=19$m=64,t=1,p=1$" + salt + "$" + key, ErrUnknownScheme},
		{"$argon2id$m=64,t=1,p=1$" + salt + "$" + key, ErrUnknownScheme},
		{"$argon2id$v=16$m=64,t=1,p=1$" + salt + "$" + key, ErrUnknownScheme},
		{"$y$jD5.$abcdefgh$" + sha256Key, ErrUnknownScheme},
		{"$", ErrUnknownScheme},

		{"{PLAIN}", ErrMalformed},
		{"{PLAIN}" + strings.Repeat("x", maxStoredBytes), ErrMalformed},
		{"{SHA}AAAA", ErrMalformed},
		{"{SHA}!!!", ErrMalformed},
		{"{SSHA}5en6G6MezRroT3XKqkdPOmY/BfQ=", ErrMalformed},
		{"{SHA256.hex}zz", ErrMalformed},
		{"{PLAIN.b64}====", ErrMalformed},
		{"{BLF-CRYPT}$6$x$y", ErrMalformed},
		{"{ARGON2I}$argon2id$v=19$m=64,t=1,p=1$" + salt + "$" + key, ErrMalformed},
		{"$argon2id", ErrMalformed},
		{"$argon2id$v=19$m=4,t=1,p=1$" + salt + "$" + key, ErrMalformed},
		{"$argon2id$v=19$m=64,t=0,p=1$" + salt + "$" + key, ErrMalformed},
		{"$argon2id$v=19$m=64,t=1,p=0$" + salt + "$" + key, ErrMalformed},
		{"$argon2id$v=19$t=1,m=64,p=1$" + salt + "$" + key, ErrMalformed},
		{"$argon2id$v=19$m=64,t=1,p=1$" + salt + "$AAAA", ErrMalformed},
		{"$argon2id$v=19$m=64,t=1,p=1$" + salt + "$", ErrMalformed},
		{"$1$x", ErrMalformed},
		{"$1$ninechars$H5VCo/9GarzI/MvHv2TRY.", ErrMalformed},
		{"$2y$03$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a", ErrMalformed},
		{"$2y$05$abc", ErrMalformed},
		{"$5$rounds=999$x$" + sha256Key, ErrMalformed},
		{"$5$rounds=x$x$" + sha256Key, ErrMalformed},
		{"$5$rounds=1000", ErrMalformed},
		{"$5$seventeencharslon$" + sha256Key, ErrMalformed},
		{"$6$x$" + sha256Key, ErrMalformed},
		{"$y$j9T", ErrMalformed},
		{"$y$j9T$!!$" + sha256Key, ErrMalformed},
		{"{PBKDF2}$2$salt$5000$ef07540bf13803f31136d7c507911fa9deb2c075", ErrMalformed},
		{"{PBKDF2}$1$salt$0$ef07540bf13803f31136d7c507911fa9deb2c075", ErrMalformed},
		{"{PBKDF2}$1$salt$5000$ef", ErrMalformed},
		{"{SCRAM-SHA-256}4096,x", ErrMalformed},
		{"{SCRAM-SHA-1}4096" + scramKeys, ErrMalformed},
		{"{SCRAM-SHA-256}0" + scramKeys, ErrMalformed},

		{"$argon2id$v=19$m=262145,t=1,p=1$" + salt + "$" + key, ErrTooCostly},
		{"$argon2id$v=19$m=64,t=17,p=1$" + salt + "$" + key, ErrTooCostly},
		{"$argon2id$v=19$m=4096,t=1,p=17$" + salt + "$" + key, ErrTooCostly},
		{"$argon2id$v=19$m=4096,t=1,p=256$" + salt + "$" + key, ErrTooCostly},
		{"$2y$15$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a", ErrTooCostly},
		{"$5$rounds=1000001$x$" + sha256Key, ErrTooCostly},
		{"$y$jFT$abcdefgh$" + sha256Key, ErrTooCostly},
		{"{PBKDF2}$1$salt$5000001$ef07540bf13803f31136d7c507911fa9deb2c075", ErrTooCostly},
		{"{SCRAM-SHA-256}5000001" + scramKeys, ErrTooCostly},
	}
	for _, test := range tests {
		if err := Supported(test.stored); !errors.Is(err, test.want) {
			t.Errorf("Supported(%.60q) is %v, want %v", test.stored, err, test.want)
		}
		if ok, err := Verify(t.Context(), test.stored, "secret"); ok || !errors.Is(err, test.want) {
			t.Errorf("Verify(%.60q) is %v, %v, want %v", test.stored, ok, err, test.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, v := range append(append(dovecotVectors(), cryptVectors()...), variantVectors()...) {
		f.Add(v.stored)
	}
	f.Add("{PLAIN}")
	f.Add("$argon2id$v=19$m=1,t=1,p=1$$")
	f.Fuzz(func(t *testing.T, stored string) {
		parsed, err := parse(stored)
		if err == nil && (parsed.memory() <= 0 || parsed.memory() > MaxMemoryBytes) {
			t.Errorf("it takes %d bytes of memory", parsed.memory())
		}
		if err != nil && !errors.Is(err, ErrUnknownScheme) && !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrTooCostly) {
			t.Errorf("unexpected kind of error: %v", err)
		}
	})
}

func BenchmarkArgon2id(b *testing.B) {
	stored, err := Hash(shortPassword)
	if err != nil {
		b.Fatal(err)
	}
	h := NewHasher(2, MaxMemoryBytes)
	b.ReportAllocs()
	for b.Loop() {
		if ok, err := h.Verify(b.Context(), stored, shortPassword); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}
