package clustertest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"waypost/deploy/up"
	"waypost/director"
	"waypost/director/etcd/embedded"
	"waypost/internal/cluster"
)

// etcdServers is a cluster whose directory is on three of Debian's etcd servers, configured by `waypost init`.
type etcdServers struct {
	*testCluster
	t *testing.T
	// ctl are the options of etcdctl; servers are the processes, by their client URLs.
	ctl     []string
	servers map[string]string
}

// TestEtcdServers: an etcd server that is killed, or hangs, costs a pause at most, the leader too; without
// two of three, mail flows for users who are known, and moves wait.
func TestEtcdServers(t *testing.T) {
	beside(t)
	need(t, "etcd", "etcdctl")
	s := newEtcdServers(t)
	users := s.withUsers(4)
	l := startLoad(s.testCluster, t, users)
	l.flow(10)

	first := s.leader()
	s.procs[first].kill()
	l.flow(10)
	s.moveAll(users)
	s.procs[first].start(t)

	second := s.leader()
	s.procs[second].signal(syscall.SIGSTOP)
	l.flow(10)
	s.moveAll(users)
	s.procs[second].signal(syscall.SIGCONT)

	s.leader()
	for _, name := range []string{first, second} {
		s.procs[name].kill()
	}
	l.flow(20)
	for _, name := range []string{first, second} {
		s.procs[name].start(t)
	}
	s.leader()
	s.moveAll(users)
	l.flow(10)
	l.end()
	l.settled(patience)
	l.check()
	s.oneServes(t, l)
}

func newEtcdServers(t *testing.T) *etcdServers {
	t.Helper()
	s := &etcdServers{t: t, servers: make(map[string]string)}
	s.testCluster = newClusterWith(t, func(c *testCluster, us []up.Unit, o *embedded.EmbedOptions) {
		c.freeMover = true
		made := filepath.Join(t.TempDir(), "made")
		_, port, _ := strings.Cut(o.ClientAddr, ":")
		var endpoints []string
		args := []string{"init", "--dir", made, "--cluster", "three"}
		for _, host := range []string{"127.0.0.1", "127.0.0.2", "127.0.0.3"} {
			endpoints = append(endpoints, "https://"+host+":"+port)
			args = append(args, "--etcd", endpoints[len(endpoints)-1])
		}
		waypost(t, c.dir, "", args...)
		for i := range us {
			us[i].Config.Directory.Endpoints = endpoints
		}
		// The cluster has an authority of its own.
		ca, err := cluster.LoadAuthority(filepath.Dir(o.CAFile))
		if err != nil {
			t.Fatal(err)
		}
		for i, url := range endpoints {
			p := cluster.Peer{Role: cluster.RoleEtcd, ID: fmt.Sprintf("etcd%d", i+1)}
			folder := filepath.Join(made, "nodes", "etcd-"+p.ID)
			put(t, folder, cluster.AuthorityCert, contents(t, o.CAFile), 0o600)
			err := errors.Join(os.Remove(cluster.CertPath(folder, p)), os.Remove(cluster.KeyPath(folder, p)),
				ca.IssueTo(folder, p, []string{"127.0.0.1", fmt.Sprintf("127.0.0.%d", i+1), "etcd-peer.waypost"}))
			if err != nil {
				t.Fatal(err)
			}
			c.etcdFiles = append(c.etcdFiles, filepath.Join(folder, "etcd-"+p.ID+".yml"))
			s.servers[url] = fmt.Sprintf("e%d", i+1)
		}
		s.ctl = []string{"--endpoints", strings.Join(endpoints, ","), "--cacert", o.CAFile, "--cert", o.CertFile, "--key", o.KeyFile}
	})
	return s
}

// leader waits until the servers that answer have one, and gives its process.
func (s *etcdServers) leader() (name string) {
	s.t.Helper()
	eventually(s.t, "etcd has a leader", patience, func() error {
		// It ends with 1 where one of the servers does not answer.
		r := run(s.t, s.dir, "etcdctl", append(s.ctl, "--command-timeout", "2s", "--dial-timeout", "1s", "endpoint", "status")...)
		for line := range strings.Lines(r.out) {
			// Endpoint, ID, version, size, is leader, ...
			if f := strings.Split(line, ", "); len(f) > 5 && f[4] == "true" && s.servers[f[0]] != name {
				name = s.servers[f[0]]
				return nil
			}
		}
		return fmt.Errorf("etcdctl: %s", r.out)
	})
	return name
}

// moveAll moves all users, at once.
func (s *etcdServers) moveAll(users []director.User) {
	s.t.Helper()
	to := make(map[director.User]director.BackendID)
	for _, u := range users {
		eventually(s.t, "a move of "+string(u)+" begins", patience, func() error {
			if to[u] == "" {
				got, err := s.admin.User(s.t.Context(), u)
				if err != nil {
					return err
				}
				all := []director.BackendID{"b1", "b2", "b3"}
				to[u] = all[(slices.Index(all, got.Home)+1)%len(all)]
			}
			_, err := s.admin.CreateMove(s.t.Context(), string(u), to[u])
			if errors.Is(err, director.ErrConflict) {
				return nil // by the call before, whose answer was lost
			}
			return err
		})
	}
	for _, u := range users {
		eventually(s.t, "the move of "+string(u)+" ends", patience, func() error {
			got, err := s.admin.User(s.t.Context(), u)
			if err == nil && (got.Home != to[u] || got.State != director.Active) {
				err = fmt.Errorf("home %s, state %s, not on %s", got.Home, got.State, to[u])
			}
			return err
		})
	}
}
