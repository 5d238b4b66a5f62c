package cli

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"waypost/deploy/initialize"
	"waypost/internal/cluster"
)

// madeNode is how init tells of a node it has made.
type madeNode struct {
	Role   cluster.Role `json:"role"`
	ID     string       `json:"id"`
	Host   string       `json:"host"`
	Config string       `json:"config"`
}

func made(dir string, n initialize.Node) madeNode {
	return madeNode{n.Role, n.ID, n.Host, initialize.ConfigPath(dir, n)}
}

func (a *app) initCmd() *cobra.Command {
	var o initialize.Options
	var hosts []string
	c := &cobra.Command{
		Use:   "init --dir DIR --cluster NAME",
		Short: "Make a new cluster's certificates and configuration files",
		Long: `Make what a new cluster needs before its first process starts, in a new folder:

  DIR/nodes/<role>-<id>/   a node's certificate, key and commented TOML file; copy
                           its contents to /etc/waypost on the node
  DIR/nodes/etcd-<id>/     an etcd server's certificate and configuration
  DIR/admin/               what an operator needs: --data DIR/admin
  DIR/pki/                 the cluster's authority. Whoever has ca.key can be any
                           node: keep it here, and in a backup, only

Nothing is overwritten. Nodes that --host does not name are on 127.0.0.1, with
ports that do not clash and data beside their files: a trial on one machine.`,
		Example: `  # A trial on one machine.
  waypost init --dir ./cluster --cluster trial
  (cd ./cluster/nodes/etcd-etcd1 && etcd --config-file etcd-etcd1.yml) &
  waypost director --config ./cluster/nodes/director-d1/director-d1.toml

  # Four machines and an etcd that is there already.
  waypost init --dir ./prod --cluster prod --backends 2 --mx 1 --proxies 1 \
      --etcd https://10.0.0.1:2379 --host director/d1=10.0.0.1 --host rebalance/r1=10.0.0.1 \
      --host backend/b1=10.0.0.2 --host backend/b2=10.0.0.3 \
      --host mx/mx1=mail.example.org --host proxy/p1=mail.example.org`,
	}
	f := c.Flags()
	f.StringVar(&o.Dir, "dir", "", "`folder` to make")
	f.StringVar(&o.Cluster, "cluster", "", "the cluster's `name`, lower case")
	f.IntVar(&o.Directors, "directors", 1, "how many directors: d1 …")
	f.IntVar(&o.Backends, "backends", 3, "how many backends: b1 …")
	f.IntVar(&o.MX, "mx", 2, "how many mx: mx1 …")
	f.IntVar(&o.Proxies, "proxies", 2, "how many proxies: p1 …")
	f.IntVar(&o.Movers, "movers", 1, "how many movers: r1 …")
	f.StringArrayVar(&hosts, "host", nil, "`ROLE/ID=HOST`: the name or address of a node's machine; may be repeated")
	f.StringSliceVar(&o.Etcd, "etcd", nil, "`URL` of etcd, may be repeated (default "+initialize.DefaultEtcd+")")
	out := a.printing(c)
	c.AddCommand(a.initNodeCmd(), a.initRenewCmd())
	c.Args = unknownWord
	c.RunE = func(c *cobra.Command, _ []string) error {
		if o.Dir == "" || o.Cluster == "" {
			return usagef("say the folder to make with --dir and the cluster's name with --cluster")
		}
		var err error
		if o.Hosts, err = parseHosts(hosts); err != nil {
			return err
		}
		if _, err := initialize.NewPlan(o); err != nil {
			return &usageError{err}
		}
		plan, err := initialize.Create(o)
		if err != nil {
			return err
		}
		return a.showPlan(out, o.Dir, plan)
	}
	return c
}

func parseHosts(flags []string) (map[cluster.Peer]string, error) {
	hosts := map[cluster.Peer]string{}
	for _, f := range flags {
		name, host, ok := strings.Cut(f, "=")
		peer, err := parsePeer(name)
		if !ok || err != nil || host == "" {
			return nil, usagef("--host %q: want ROLE/ID=HOST, like backend/b1=10.0.0.11", f)
		}
		if _, twice := hosts[peer]; twice {
			return nil, usagef("--host: %s is named twice", peer)
		}
		hosts[peer] = host
	}
	return hosts, nil
}

func parsePeer(s string) (cluster.Peer, error) {
	r, id, _ := strings.Cut(s, "/")
	p := cluster.Peer{Role: cluster.Role(r), ID: id}
	return p, p.Validate()
}

func (a *app) showPlan(out *output, dir string, plan initialize.Plan) error {
	answer := struct {
		Dir     string     `json:"dir"`
		Cluster string     `json:"cluster"`
		Etcd    []string   `json:"etcd"`
		Nodes   []madeNode `json:"nodes"`
	}{dir, plan.Cluster, plan.Etcd, []madeNode{}}
	for _, n := range plan.Nodes {
		answer.Nodes = append(answer.Nodes, made(dir, n))
	}
	return out.show(answer, func(w io.Writer) {
		fmt.Fprintf(w, "made cluster %q in %s\n\n", plan.Cluster, dir)
		t := newTable(w, "NODE", "HOST", "CONFIGURATION")
		for _, n := range answer.Nodes {
			t.row(string(n.Role)+"/"+n.ID, n.Host, n.Config)
		}
		t.end()
		fmt.Fprintf(w, `
etcd: %s (certificates in %s)
Keep %s safe: whoever has it can be any node of the cluster.
Operator's commands: --data %s
`, strings.Join(plan.Etcd, " "), filepath.Join(dir, "nodes"), filepath.Join(dir, "pki", cluster.AuthorityKey), dir)
	})
}

func (a *app) initNodeCmd() *cobra.Command {
	var dir, host string
	c := &cobra.Command{
		Use:   "node ROLE/ID --dir DIR",
		Short: "Issue one more node for a cluster that init made",
		Long: `Make the folder of one more node: DIR/nodes/<role>-<id> with its certificate, key
and configuration. The other nodes need no change: it finds them, and they
find it, by gossip and the directory.`,
		Example: `  waypost init node backend/b4 --dir ./cluster --host 10.0.0.14
  scp ./cluster/nodes/backend-b4/* root@10.0.0.14:/etc/waypost/`,
		Args: exactly("the node as ROLE/ID, like backend/b4"),
	}
	c.Flags().StringVar(&dir, "dir", "", "the cluster's `folder`")
	c.Flags().StringVar(&host, "host", "", "`name` or address of its machine (default 127.0.0.1)")
	out := a.printing(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		peer, err := parsePeer(args[0])
		if err != nil {
			return usagef("%q: want ROLE/ID, like backend/b4: %w", args[0], err)
		}
		if dir == "" {
			return usagef("say the cluster's folder with --dir")
		}
		_, n, err := initialize.AddNode(dir, peer, host)
		if err != nil {
			return err
		}
		m := made(dir, n)
		return out.say(m, "made %s: copy %s to %s", peer, filepath.Dir(m.Config), n.Host)
	}
	return c
}

func (a *app) initRenewCmd() *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use:   "renew --dir DIR",
		Short: "Replace the certificates that end soon",
		Long: `Replace the certificates in DIR that end within three months; they last a year.
Copy the files it names, and the keys beside them, to their nodes: running
processes take them up within a minute.`,
		Example: `  waypost init renew --dir ./cluster`,
		Args:    exactly(),
	}
	c.Flags().StringVar(&dir, "dir", "", "the cluster's `folder`")
	out := a.printing(c)
	c.RunE = func(*cobra.Command, []string) error {
		if dir == "" {
			return usagef("say the cluster's folder with --dir")
		}
		renewed, err := initialize.Renew(dir)
		if err != nil {
			return err
		}
		return out.show(struct {
			Renewed []string `json:"renewed"`
		}{orEmpty(renewed)}, func(w io.Writer) {
			for _, path := range renewed {
				fmt.Fprintln(w, "renewed", path)
			}
			if len(renewed) == 0 {
				fmt.Fprintln(w, "all certificates are good for more than three months")
			}
		})
	}
	return c
}
