package cluster

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// Role is what a process is in the cluster, and by that what it may do.
type Role string

// The roles. RoleAdmin is an operator's certificate, RoleEtcd that of the etcd
// servers which keep the directory.
const (
	RoleDirector  Role = "director"
	RoleBackend   Role = "backend"
	RoleMX        Role = "mx"
	RoleProxy     Role = "proxy"
	RoleRebalance Role = "rebalance"
	RoleAdmin     Role = "admin"
	RoleEtcd      Role = "etcd"
)

// Valid reports whether r is one of the roles above.
func (r Role) Valid() bool {
	switch r {
	case RoleDirector, RoleBackend, RoleMX, RoleProxy, RoleRebalance, RoleAdmin, RoleEtcd:
		return true
	}
	return false
}

// The protocols between nodes, as ALPN names.
const (
	ProtoLMTP    = "waypost-lmtp/1"
	ProtoSession = "waypost-session/1"
	ProtoSFTP    = "waypost-sftp/1"
	ProtoControl = "waypost-control/1"
)

// Peer names a process of the cluster, such as backend b1. An ID has 1 to 63
// letters, digits, dots, hyphens and underscores and begins with a letter or a
// digit.
type Peer struct {
	Role Role
	ID   string
}

// String gives "backend/b1", and "backend/*" for a peer without ID, which in
// Dial and HTTPClient stands for any process of that role.
func (p Peer) String() string {
	if p.ID == "" {
		return string(p.Role) + "/*"
	}
	return string(p.Role) + "/" + p.ID
}

// Validate says what is wrong with p as the name of one process.
func (p Peer) Validate() error {
	if !p.Role.Valid() {
		return fmt.Errorf("unknown role %q", string(p.Role))
	}
	if !validName(p.ID) {
		return fmt.Errorf("bad node id %q: 1 to 63 letters, digits, dots, hyphens and underscores, a letter or digit first", p.ID)
	}
	return nil
}

// matches reports whether p is the peer wanted; a want without ID is any of
// its role.
func (p Peer) matches(want Peer) bool {
	return p.Role == want.Role && (want.ID == "" || p.ID == want.ID)
}

const maxNameBytes = 63

func validName(s string) bool {
	if len(s) == 0 || len(s) > maxNameBytes {
		return false
	}
	for i := range len(s) {
		c := s[i]
		letterOrDigit := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letterOrDigit && (i == 0 || !strings.ContainsRune("._-", rune(c))) {
			return false
		}
	}
	return true
}

// validCluster is validName in lower case: the cluster's name is the host of a
// URI, which compares without case.
func validCluster(s string) bool { return validName(s) && s == strings.ToLower(s) }

const uriScheme = "waypost"

func peerURI(cluster string, p Peer) *url.URL {
	return &url.URL{Scheme: uriScheme, Host: cluster, Path: "/" + string(p.Role) + "/" + p.ID}
}

// errNoName is for certificates that are none of a Waypost cluster's nodes.
var errNoName = errors.New("certificate names no waypost node")

// peerOf reads the one Waypost name in a certificate. The name must be spelled
// exactly as we write it: no user, port, query, escape or second spelling.
func peerOf(cert *x509.Certificate) (cluster string, p Peer, err error) {
	u, err := waypostURI(cert)
	if err != nil {
		return "", Peer{}, err
	}
	role, id, ok := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	p = Peer{Role(role), id}
	if !ok || !validCluster(u.Host) || p.Validate() != nil || u.String() != peerURI(u.Host, p).String() {
		return "", Peer{}, fmt.Errorf("certificate has a malformed name %q", u.String())
	}
	return u.Host, p, nil
}

// clusterOf reads the cluster's name in the certificate of its authority,
// waypost://<cluster>.
func clusterOf(ca *x509.Certificate) (string, error) {
	u, err := waypostURI(ca)
	if err != nil {
		return "", err
	}
	if !validCluster(u.Host) || u.String() != authorityURI(u.Host).String() {
		return "", fmt.Errorf("certificate has a malformed cluster name %q", u.String())
	}
	return u.Host, nil
}

func authorityURI(cluster string) *url.URL { return &url.URL{Scheme: uriScheme, Host: cluster} }

func waypostURI(cert *x509.Certificate) (*url.URL, error) {
	var found *url.URL
	for _, u := range cert.URIs {
		if u.Scheme != uriScheme {
			continue
		}
		if found != nil {
			return nil, errors.New("certificate names more than one waypost node")
		}
		found = u
	}
	if found == nil {
		return nil, errNoName
	}
	return found, nil
}

// rolesAllow reports whether r is one of allowed. No roles allow nobody.
func rolesAllow(allowed []Role, r Role) bool { return slices.Contains(allowed, r) }

type peerKey struct{}

// PeerFrom gives the verified peer of the connection that ctx belongs to. It is
// false for a context that comes from neither a Mux nor Identity.WithPeer.
func PeerFrom(ctx context.Context) (Peer, bool) {
	p, ok := ctx.Value(peerKey{}).(Peer)
	return p, ok
}

func withPeer(ctx context.Context, p Peer) context.Context {
	return context.WithValue(ctx, peerKey{}, p)
}
