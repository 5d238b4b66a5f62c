package cluster

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// reloadEvery is how often an Identity looks whether its files have changed.
const reloadEvery = time.Minute

// Identity is what a process proves itself with, and judges others by: its
// certificate and key, and the cluster's authority. It is safe for concurrent
// use.
type Identity struct {
	caFile, certFile, keyFile string

	self    Peer
	cluster string
	now     func() time.Time

	current atomic.Pointer[credentials]

	// mu guards the fields below; it is held while the files are read again.
	mu        sync.Mutex
	checked   time.Time
	reloadErr error
}

// credentials are one generation of the files, never changed once made.
type credentials struct {
	roots *x509.CertPool
	cert  tls.Certificate
	stamp fileStamps
}

// fileStamps tell whether one of the three files was replaced or rewritten.
type fileStamps [3]os.FileInfo

func (s fileStamps) same(o fileStamps) bool {
	for i := range s {
		if !os.SameFile(s[i], o[i]) || s[i].Size() != o[i].Size() || !s[i].ModTime().Equal(o[i].ModTime()) {
			return false
		}
	}
	return true
}

// LoadIdentity reads the authority's certificate (caFile; it may hold several
// of the same cluster while one replaces another) and this process's own pair.
// Its errors name the file at fault and what to do.
//
// The files are looked at again at most once a minute, when a connection is
// made, and read when they have changed. If what is found then is no good the
// process keeps what it has, and Health says so.
func LoadIdentity(caFile, certFile, keyFile string) (*Identity, error) {
	return loadIdentity(caFile, certFile, keyFile, time.Now)
}

func loadIdentity(caFile, certFile, keyFile string, now func() time.Time) (*Identity, error) {
	id := &Identity{caFile: caFile, certFile: certFile, keyFile: keyFile, now: now}
	c, cluster, self, err := id.read()
	if err != nil {
		return nil, fmt.Errorf("load cluster identity: %w", err)
	}
	id.cluster, id.self, id.checked = cluster, self, now()
	id.current.Store(c)
	return id, nil
}

// Self is this process's own name.
func (id *Identity) Self() Peer { return id.self }

// Cluster is the name of the cluster this process belongs to.
func (id *Identity) Cluster() string { return id.cluster }

// Expires is the end of the certificate in use.
func (id *Identity) Expires() time.Time { return id.credentials().cert.Leaf.NotAfter }

// Health is nil while the certificate is good and its files are readable. It is
// meant for readiness checks and alarms: it fails when changed files could not
// be taken, and when the certificate has less than RenewBefore/4 left.
func (id *Identity) Health() error {
	left := id.credentials().cert.Leaf.NotAfter.Sub(id.now())
	id.mu.Lock()
	err := id.reloadErr
	id.mu.Unlock()
	if err != nil {
		return fmt.Errorf("cluster certificate not reloaded: %w", err)
	}
	if left < RenewBefore/4 {
		return fmt.Errorf("cluster certificate %s ends in %v; issue a new one", id.certFile, left.Round(time.Minute))
	}
	return nil
}

// credentials gives the current generation, after a look at the files if the
// last one is long enough ago. One goroutine looks; the others do not wait.
func (id *Identity) credentials() *credentials {
	if id.mu.TryLock() {
		id.reloadIfDue()
		id.mu.Unlock()
	}
	return id.current.Load()
}

func (id *Identity) reloadIfDue() {
	now := id.now()
	if now.Sub(id.checked) < reloadEvery {
		return
	}
	id.checked = now
	stamp, err := id.stamps()
	if err == nil && stamp.same(id.current.Load().stamp) {
		id.reloadErr = nil
		return
	}
	c, cluster, self, err := id.read()
	if err == nil && (cluster != id.cluster || self != id.self) {
		err = fmt.Errorf("%s is now the certificate of %s in cluster %q; this process is %s in %q: restart it if that is meant",
			id.certFile, self, cluster, id.self, id.cluster)
	}
	if id.reloadErr = err; err == nil {
		id.current.Store(c)
	}
}

func (id *Identity) stamps() (s fileStamps, err error) {
	for i, path := range []string{id.caFile, id.certFile, id.keyFile} {
		if s[i], err = os.Stat(path); err != nil {
			return s, err
		}
	}
	return s, nil
}

// read reads and checks the three files.
func (id *Identity) read() (*credentials, string, Peer, error) {
	fail := func(err error) (*credentials, string, Peer, error) { return nil, "", Peer{}, err }
	// Taken before the reading, so that a change in between is seen at the next
	// look. Its error is that of a missing file, which is told better below.
	stamp, stampErr := id.stamps()
	roots, cluster, err := readRoots(id.caFile)
	if err != nil {
		return fail(err)
	}
	certPEM, err := readFile("certificate of this node", id.certFile, "issue one with the cluster's authority and copy it here")
	if err != nil {
		return fail(err)
	}
	keyPEM, err := readFile("key of this node", id.keyFile, "issue a new pair with the cluster's authority and copy it here")
	if err != nil {
		return fail(err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return fail(fmt.Errorf("%s and %s: %w; issue a new pair and copy both files", id.certFile, id.keyFile, err))
	}
	self, err := verifyPeer(pair.Leaf, roots, cluster, x509.ExtKeyUsageServerAuth, id.now())
	if err != nil {
		return fail(fmt.Errorf("%s: %w; issue a new pair with the authority of %s", id.certFile, err, id.caFile))
	}
	if stampErr != nil {
		return fail(stampErr)
	}
	return &credentials{roots, pair, stamp}, cluster, self, nil
}

// readRoots reads the authority's certificates. All must be of one cluster.
func readRoots(caFile string) (*x509.CertPool, string, error) {
	const remedy = "copy ca.crt from the folder where the cluster was made"
	data, err := readFile("cluster authority", caFile, remedy)
	if err != nil {
		return nil, "", err
	}
	pool, cluster := x509.NewCertPool(), ""
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, "", fmt.Errorf("%s holds a %s where only certificates belong; %s", caFile, block.Type, remedy)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, "", fmt.Errorf("%s: %w; %s", caFile, err, remedy)
		}
		name, err := clusterOf(cert)
		if err != nil || !cert.IsCA {
			return nil, "", fmt.Errorf("%s holds a certificate that is no waypost cluster authority; %s", caFile, remedy)
		}
		if cluster != "" && name != cluster {
			return nil, "", fmt.Errorf("%s holds authorities of two clusters, %q and %q; keep one", caFile, cluster, name)
		}
		cluster = name
		pool.AddCert(cert)
	}
	if cluster == "" {
		return nil, "", fmt.Errorf("%s holds no certificate; %s", caFile, remedy)
	}
	return pool, cluster, nil
}

// errCluster is for certificates whose name is of another cluster than their
// authority.
var errCluster = errors.New("certificate names another cluster")

// verifyPeer checks that leaf comes directly from one of roots, is valid now and
// for usage, and names a node of cluster; and returns that name.
func verifyPeer(leaf *x509.Certificate, roots *x509.CertPool, cluster string, usage x509.ExtKeyUsage, now time.Time) (Peer, error) {
	opts := x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}}
	if _, err := leaf.Verify(opts); err != nil {
		return Peer{}, err
	}
	name, p, err := peerOf(leaf)
	if err != nil {
		return Peer{}, err
	}
	if name != cluster {
		return Peer{}, fmt.Errorf("%w: %q, not %q", errCluster, name, cluster)
	}
	return p, nil
}
