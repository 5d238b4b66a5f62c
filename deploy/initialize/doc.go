// Package initialize makes what a new cluster needs before its first process
// starts: the cluster's authority, a certificate and a configuration file for
// each node, the gossip key, and the operator's own certificate. It is what
// `waypost init` does.
//
// # Layout
//
//	DIR/cluster.json                  the plan: nodes, hosts, etcd (Plan)
//	DIR/cli.json                      how the waypost commands find the cluster
//	DIR/pki/ca.crt, ca.key            the authority; ca.key never leaves this folder
//	DIR/admin/                        what an operator needs: cli.json, ca.crt, certificate
//	DIR/nodes/<role>-<id>/            what one node needs; it is copied to the node as it is
//	    <role>-<id>.toml              the configuration, every setting commented
//	    <role>-<id>.crt, .key         the node's certificate
//	    ca.crt, gossip.key            the same on all nodes
//	    <role>-<id>-tls.crt, .key     mx and proxy: what clients see, self-signed
//	DIR/nodes/etcd-<id>/              an etcd server's certificate and configuration
//	    auth.sh                       the first one's: switches on etcd's access control
//
// The folders of several nodes on one machine may be copied into one.
//
// # Contract
//
// Nothing that exists is ever overwritten, except certificates by Renew.
// cluster.json is written last: a folder without it is a creation that broke
// off, which is to be removed. All files are durable when a call returns. The
// package reads and writes DIR only; no running node needs DIR. Two calls must
// not work in one DIR at once.
package initialize
