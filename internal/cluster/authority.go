package cluster

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"

	"waypost/internal/durable"
)

// The authority's files in its folder.
const (
	AuthorityCert = "ca.crt"
	AuthorityKey  = "ca.key"
)

const (
	authorityValidity = 20 * 365 * 24 * time.Hour

	// NodeValidity is how long a certificate of IssueTo lasts.
	NodeValidity = 365 * 24 * time.Hour

	// RenewBefore is how long before its end IssueTo replaces a certificate.
	RenewBefore = NodeValidity / 4

	// backdate lets a node whose clock is behind accept a new certificate.
	backdate = time.Hour
)

// Authority is the cluster's own certification authority: an ECDSA P-256 key
// and its certificate. It is needed to issue certificates and for nothing else;
// no running node has to hold it. It is safe for concurrent use.
type Authority struct {
	cluster string
	cert    *x509.Certificate
	certPEM []byte
	key     crypto.Signer
	now     func() time.Time
}

// CreateAuthority makes the authority of a new cluster and writes ca.crt (mode
// 0644) and ca.key (0600) in dir, which is created if need be. If either file
// exists nothing is written and the error is fs.ErrExist: a second authority
// would cut a running cluster in two. The name has 1 to 63 lower-case letters,
// digits, dots, hyphens and underscores.
func CreateAuthority(dir string, clusterName string) (*Authority, error) {
	if !validCluster(clusterName) {
		return nil, fmt.Errorf("create authority: bad cluster name %q: 1 to 63 lower-case letters, digits, dots, hyphens and underscores, a letter or digit first", clusterName)
	}
	certPath, keyPath := filepath.Join(dir, AuthorityCert), filepath.Join(dir, AuthorityKey)
	for _, path := range []string{certPath, keyPath} {
		if _, err := os.Lstat(path); err == nil {
			return nil, fmt.Errorf("create authority: %s: %w; to make a new cluster choose another folder", path, fs.ErrExist)
		}
	}
	a, keyPEM, err := newAuthority(clusterName, time.Now)
	if err != nil {
		return nil, fmt.Errorf("create authority: %w", err)
	}
	if err := durable.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("create authority: %w", err)
	}
	if err := durable.CreateFile(keyPath, keyPEM, 0o600); err != nil {
		return nil, fmt.Errorf("create authority: %w", err)
	}
	if err := durable.CreateFile(certPath, a.certPEM, 0o644); err != nil {
		return nil, fmt.Errorf("create authority: %w", err)
	}
	return a, nil
}

func newAuthority(cluster string, now func() time.Time) (*Authority, []byte, error) {
	key, keyPEM, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, nil, err
	}
	start := now()
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{"Waypost"}, CommonName: cluster + " cluster authority"},
		NotBefore:             start.Add(-backdate),
		NotAfter:              start.Add(authorityValidity),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true, // nobody below may issue
		URIs:                  []*url.URL{authorityURI(cluster)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	return &Authority{cluster, cert, encodeCert(der), key, now}, keyPEM, nil
}

// LoadAuthority reads the authority that CreateAuthority wrote in dir.
func LoadAuthority(dir string) (*Authority, error) {
	certPath, keyPath := filepath.Join(dir, AuthorityCert), filepath.Join(dir, AuthorityKey)
	certPEM, err := readFile("cluster authority", certPath, "make one with: waypost init")
	if err != nil {
		return nil, err
	}
	keyPEM, err := readFile("key of the cluster authority", keyPath, "restore it from a backup: without it no certificate can be issued")
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("load authority: %s and %s: %w; restore both from one backup", certPath, keyPath, err)
	}
	cluster, err := clusterOf(pair.Leaf)
	if err != nil || !pair.Leaf.IsCA {
		return nil, fmt.Errorf("load authority: %s is not the certificate of a waypost cluster's authority", certPath)
	}
	key, ok := pair.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("load authority: %s holds a key that cannot sign", keyPath)
	}
	return &Authority{cluster, pair.Leaf, certPEM, key, time.Now}, nil
}

// Cluster is the cluster's name.
func (a *Authority) Cluster() string { return a.cluster }

// CertPEM is the authority's certificate, which every node needs: the contents
// of ca.crt.
func (a *Authority) CertPEM() []byte { return slices.Clone(a.certPEM) }

// Issue makes a key and a certificate for p that serves both ends of a
// connection. Each of hosts becomes an IP or DNS name in it; nodes do not look
// at those, but etcd's clients and browsers do. The certificate ends with the
// authority's at the latest.
func (a *Authority) Issue(p Peer, hosts []string, validity time.Duration) (certPEM, keyPEM []byte, err error) {
	if err := p.Validate(); err != nil {
		return nil, nil, fmt.Errorf("issue certificate: %w", err)
	}
	if validity <= 0 {
		return nil, nil, fmt.Errorf("issue certificate for %s: validity of %v", p, validity)
	}
	key, keyPEM, err := newKey()
	if err != nil {
		return nil, nil, fmt.Errorf("issue certificate for %s: %w", p, err)
	}
	template, err := a.template(p, hosts, validity)
	if err != nil {
		return nil, nil, fmt.Errorf("issue certificate for %s: %w", p, err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, nil, fmt.Errorf("issue certificate for %s: %w", p, err)
	}
	return encodeCert(der), keyPEM, nil
}

func (a *Authority) template(p Peer, hosts []string, validity time.Duration) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	start := a.now()
	end := start.Add(validity)
	if end.After(a.cert.NotAfter) {
		end = a.cert.NotAfter
	}
	if !end.After(start) {
		return nil, errors.New("the cluster authority's own certificate has ended")
	}
	t := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{"Waypost"}, CommonName: p.String()},
		NotBefore:             start.Add(-backdate),
		NotAfter:              end,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{peerURI(a.cluster, p)},
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else if host != "" {
			t.DNSNames = append(t.DNSNames, host)
		}
	}
	return t, nil
}

// CertPath and KeyPath are the names of the files IssueTo writes for p in dir.
func CertPath(dir string, p Peer) string {
	return filepath.Join(dir, string(p.Role)+"-"+p.ID+".crt")
}

// KeyPath is the private key beside CertPath.
func KeyPath(dir string, p Peer) string {
	return filepath.Join(dir, string(p.Role)+"-"+p.ID+".key")
}

// IssueTo sees to it that dir, created if need be, has a certificate for p and
// all of hosts, <role>-<id>.crt (mode 0644) and .key (0600). A pair that is good
// for more than RenewBefore is kept; anything else is replaced by a new one
// that lasts for NodeValidity.
func (a *Authority) IssueTo(dir string, p Peer, hosts []string) error {
	if err := p.Validate(); err != nil {
		return fmt.Errorf("issue certificate: %w", err)
	}
	certPath, keyPath := CertPath(dir, p), KeyPath(dir, p)
	if a.keeps(certPath, keyPath, p, hosts) {
		return nil
	}
	certPEM, keyPEM, err := a.Issue(p, hosts, NodeValidity)
	if err != nil {
		return err
	}
	if err := durable.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("issue certificate for %s: %w", p, err)
	}
	if err := durable.WriteFile(keyPath, keyPEM, 0o600); err != nil {
		return fmt.Errorf("issue certificate for %s: %w", p, err)
	}
	if err := durable.WriteFile(certPath, certPEM, 0o644); err != nil {
		return fmt.Errorf("issue certificate for %s: %w", p, err)
	}
	return nil
}

// keeps reports whether the pair on disk still does all that a new one would.
func (a *Authority) keeps(certPath, keyPath string, p Peer, hosts []string) bool {
	pair, err := tls.LoadX509KeyPair(certPath, keyPath)
	if err != nil {
		return false
	}
	cluster, have, err := peerOf(pair.Leaf)
	if err != nil || cluster != a.cluster || have != p {
		return false
	}
	if pair.Leaf.CheckSignatureFrom(a.cert) != nil || a.renewDue(pair.Leaf) {
		return false
	}
	return !slices.ContainsFunc(hosts, func(host string) bool {
		return host != "" && pair.Leaf.VerifyHostname(host) != nil
	})
}

// renewDue reports whether a new certificate would be worth having. Near the
// authority's own end a new one would last no longer than the old.
func (a *Authority) renewDue(leaf *x509.Certificate) bool {
	now := a.now()
	if now.Before(leaf.NotBefore) || !now.Before(leaf.NotAfter) {
		return true
	}
	return leaf.NotAfter.Sub(now) <= RenewBefore && leaf.NotAfter.Before(a.cert.NotAfter)
}

func newKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// newSerial gives a positive number of at most 127 bits (RFC 5280, Section
// 4.1.2.2 wants it unique and at most 20 octets).
func newSerial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// readFile reads a file for what, and on failure says what to do.
func readFile(what, path, remedy string) ([]byte, error) {
	data, err := os.ReadFile(path)
	switch {
	case err == nil:
		return data, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s: %s: %w; %s", what, path, fs.ErrNotExist, remedy)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%s: %s: %w; make it readable for the user this process runs as", what, path, fs.ErrPermission)
	}
	return nil, fmt.Errorf("%s: %w", what, err)
}
