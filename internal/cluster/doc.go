// Package cluster gives the nodes of a Waypost cluster names, certificates and
// mutually authenticated connections. Certificates decide who may do what.
//
// # Contract
//
// A cluster has one certification authority of its own (Authority). Every
// process has a certificate of it whose one URI SAN names the process:
//
//	waypost://<cluster>/<role>/<id>      for example waypost://prod/backend/b1
//
// That name, a Peer, is the only thing trusted about a peer. Host names and
// addresses are not: nodes may move between machines, and the network between
// them is not trusted. The one exception is etcd, which is reached by host name
// as its own tools do it (TLSForEtcd).
//
// A connection carries one protocol, chosen by ALPN (RFC 7301). Identity.Dial
// proves that the far end is exactly the peer wanted; a Mux proves who calls and
// admits, for each protocol, the roles that were allowed for it. Everything is
// TLS 1.3 (RFC 8446) without session resumption, so that every connection is
// checked against the certificates and the authority of that moment. A
// connection made is not checked again: it may outlive its certificates.
//
// In TLS 1.3 a client has finished its handshake before the server has looked at
// the client's certificate. A refusal therefore shows at the first read after
// Dial, as an error or as the end of the stream, and not in Dial.
//
// # Files
//
// The package owns ca.crt and ca.key in the authority's folder and the
// <role>-<id>.crt and .key files written by Authority.IssueTo. All are written
// durably. A crash while a pair is replaced can leave a new key beside an old
// certificate: IssueTo mends that, LoadIdentity reports it, and a running
// process keeps the pair it has. An Identity reads its files again when they
// changed, so that renewal needs no restart.
//
// Every role may import this package. It knows nothing of the directory.
package cluster
